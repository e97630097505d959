// Calls functions of a library as a file says, on another kind of processor: call LIBRARY CALLS RESULTS.
//
// CALLS holds, for each call, the function's name, its integers and its arrays; RESULTS gets the arrays as they are
// afterwards. Every length is an int64 before what it counts; -1 stands for no array.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <string>
#include <vector>

typedef int64_t I;
typedef int (*Function)(I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I);
constexpr size_t MOST = 32;  // arguments; a function ignores those that it does not have

static void require(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "call: %s\n", what);
    std::exit(1);
}

static I number(std::FILE *file) {
    I value;
    require(std::fread(&value, sizeof value, 1, file) == 1, "the file of calls is cut off");
    return value;
}

int main(int, char **words) {
    void *library = dlopen(words[1], RTLD_NOW);
    require(library, library ? "" : dlerror());
    std::FILE *calls = std::fopen(words[2], "rb"), *results = std::fopen(words[3], "wb");
    require(calls && results, "a file cannot be opened");
    for (I left = number(calls); left > 0; --left) {
        std::string name(number(calls), ' ');
        require(std::fread(name.data(), 1, name.size(), calls) == name.size(), "the file of calls is cut off");
        std::vector<I> a(number(calls));
        for (I &integer : a) integer = number(calls);
        std::vector<std::vector<char>> arrays;
        std::vector<bool> given;
        for (I count = number(calls); count > 0; --count) {
            const I bytes = number(calls);
            given.push_back(bytes >= 0);
            arrays.emplace_back(bytes < 0 ? 0 : bytes);
            if (bytes > 0) require(std::fread(arrays.back().data(), bytes, 1, calls) == 1, "the file of calls is cut off");
        }
        for (size_t i = 0; i < arrays.size(); ++i) a.push_back(given[i] ? I(arrays[i].data()) : 0);
        require(a.size() <= MOST, "too many arguments");
        a.resize(MOST);
        const Function f = Function(dlsym(library, name.c_str()));
        require(f, name.c_str());
        require(f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15],
                  a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29],
                  a[30], a[31]) == 0, "not enough memory");
        for (const auto &array : arrays) std::fwrite(array.data(), 1, array.size(), results);
    }
    require(std::fclose(results) == 0, "the results cannot be written");
}
