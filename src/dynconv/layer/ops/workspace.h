// Memory for one call of an operator. Kept for the next call of the same thread: fresh pages cost as much as the
// arithmetic.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <sys/mman.h>

class Workspace {
    char *data_ = nullptr;
    size_t size_ = 0, used_ = 0;
    static constexpr size_t LINE = 64, PAGE = size_t(2) << 20;  // of the cache; a huge page

  public:
    // Makes room for `bytes`; what was taken before is void.
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
