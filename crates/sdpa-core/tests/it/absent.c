// Preloaded, it hides the driver's library from a program, whether the machine has one or not.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static char message[256];
static void *(*real_dlopen)(const char *, int);
static char *(*real_dlerror)(void);

// Ahead of the first failure, which looking a symbol up would forget.
__attribute__((constructor)) static void find_real_ones(void) {
    real_dlopen = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    real_dlerror = (char *(*)(void))dlsym(RTLD_NEXT, "dlerror");
}

void *dlopen(const char *name, int flags) {
    if (name && strstr(name, "libcuda")) {
        snprintf(message, sizeof message, "%s: cannot open shared object file: No such file or directory", name);
        return 0;
    }
    return real_dlopen(name, flags);
}

char *dlerror(void) {
    static char given[256];
    if (!*message) return real_dlerror();
    strcpy(given, message);
    *message = 0;
    return given;
}
