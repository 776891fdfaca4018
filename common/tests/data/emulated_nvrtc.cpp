// NVRTC for tests: it compiles nothing, and leaves the locale of its thread as NVRTC before 12.6.2 does.
#include <clocale>
#include <cstring>
#include <locale.h>

static const char image[] = "image";

extern "C" {
int nvrtcGetNumSupportedArchs(int *count) { *count = 1; return 0; }
int nvrtcGetSupportedArchs(int *found) { *found = 90; return 0; }
int nvrtcCreateProgram(void **program, const char *, const char *, int, const char *const *, const char *const *) {
    *program = (void *)image;
    return 0;
}
int nvrtcCompileProgram(void *, int, const char *const *) {
    uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
    return 0;
}
int nvrtcGetCUBINSize(void *, size_t *size) { *size = sizeof image; return 0; }
int nvrtcGetCUBIN(void *, char *buffer) { std::memcpy(buffer, image, sizeof image); return 0; }
int nvrtcDestroyProgram(void **) { return 0; }
const char *nvrtcGetErrorString(int) { return "emulated"; }
}
