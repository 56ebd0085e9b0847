// builtins -- what Clang may call even in freestanding code, and what loaders expect of a library without libc.
// Linked into every generated library; hidden, so that two libraries in one process never share them by accident.
#include <stddef.h>

#define HIDDEN __attribute__((visibility("hidden"), no_builtin, used))

HIDDEN void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    unsigned char *d = to;
    const unsigned char *s = from;
    for (size_t i = 0; i < bytes; i++) d[i] = s[i];
    return to;
}

HIDDEN void *memmove(void *to, const void *from, size_t bytes) {
    unsigned char *d = to;
    const unsigned char *s = from;
    if (d <= s) {
        for (size_t i = 0; i < bytes; i++) d[i] = s[i];
    } else {
        for (size_t i = bytes; i-- > 0;) d[i] = s[i];
    }
    return to;
}

HIDDEN void *memset(void *to, int value, size_t bytes) {
    unsigned char *d = to;
    for (size_t i = 0; i < bytes; i++) d[i] = (unsigned char)value;
    return to;
}

HIDDEN int memcmp(const void *a, const void *b, size_t bytes) {
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < bytes; i++) {
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    }
    return 0;
}

#ifdef _WIN32
// The linker wants an entry point and, where floats are used, this symbol.
int _fltused = 1;
int __stdcall DllMainCRTStartup(void *handle, unsigned reason, void *reserved) {
    (void)handle, (void)reason, (void)reserved;
    return 1;
}
#endif
