// Memory for the calls of an operator. It is kept for the next call: fresh pages cost as much as the arithmetic.
//
// A call borrows a workspace from a pool that all threads share, and gives it back at its end. So as many workspaces
// exist as calls run at the same time, and between calls no more than Pool::KEPT, however many threads there were.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <sys/mman.h>

class Workspace {
    char *data_ = nullptr;
    size_t size_ = 0, used_ = 0;
    static constexpr size_t LINE = 64, PAGE = size_t(2) << 20;  // of the cache; a huge page

  public:
    // Makes room for `bytes`; what was taken before is void. Throws std::bad_alloc, and is then empty.
    void reserve(size_t bytes) {
        used_ = 0;
        if (bytes <= size_) return;
        release();
        const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
        data_ = static_cast<char *>(std::aligned_alloc(PAGE, pages));
        if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(data_, pages, MADV_HUGEPAGE);
#endif
        size_ = pages;
    }
    size_t size() const { return size_; }
    // The bytes that `count` numbers take, to be summed up for `reserve`.
    template <class Number> static size_t size(size_t count) {
        return (count * sizeof(Number) + LINE - 1) / LINE * LINE;
    }
    // Room for `count` numbers, at the start of a cache line.
    template <class Number> Number *take(size_t count) {
        Number *p = reinterpret_cast<Number *>(data_ + used_);
        used_ += size<Number>(count);
        return p;
    }
    void release() {
        std::free(data_);
        data_ = nullptr;
        size_ = 0;
    }
};

// The workspaces that no call uses, and how large all are. Never destroyed: at exit a thread may still be in a call.
class Pool {
    static constexpr int KEPT = 2;
    std::mutex mutex_;
    Workspace kept_[KEPT];
    int count_ = 0;
    std::atomic<int64_t> bytes_{0};

  public:
    // The one used last, which the cache may still hold; it is made large enough.
    Workspace borrow(size_t bytes) {
        Workspace workspace;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (count_) workspace = kept_[--count_];
        }
        const size_t before = workspace.size();
        try {
            workspace.reserve(bytes);
        } catch (...) {
            bytes_ -= int64_t(before);
            throw;
        }
        bytes_ += int64_t(workspace.size()) - int64_t(before);
        return workspace;
    }
    void give_back(Workspace workspace) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (count_ < KEPT) {
                kept_[count_++] = workspace;
                return;
            }
        }
        free(workspace);
    }
    // Frees what is kept for the next calls.
    void release() {
        const std::lock_guard<std::mutex> lock(mutex_);
        while (count_) free(kept_[--count_]);
    }
    // What the workspaces take, those in use included.
    int64_t bytes() const { return bytes_; }

  private:
    void free(Workspace &workspace) {
        bytes_ -= int64_t(workspace.size());
        workspace.release();
    }
};

// A workspace of `bytes` for one scope.
class Loan : public Workspace {
    Pool &pool_;

  public:
    Loan(Pool &pool, size_t bytes) : Workspace(pool.borrow(bytes)), pool_(pool) {}
    ~Loan() { pool_.give_back(*this); }
    Loan(const Loan &) = delete;
    Loan &operator=(const Loan &) = delete;
};

// Calls f; 0, or 1 where there is not enough memory.
template <class Fn> int guarded(Fn f) {
    try {
        f();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
