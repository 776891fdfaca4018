// A CUDA driver for tests without a GPU: kernels are compiled by the C++ compiler, and run on the host's arrays.
//
// KERNELS names the file with the kernels. The threads of a block take turns: each runs to the place where it waits for
// the others, and goes on from there in the next round. Blocks follow one another, so a shared array is a static one.
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <ucontext.h>

struct Dim { unsigned int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

static const int MOST_THREADS = 256, STACK = 1 << 16;
static ucontext_t scheduler, threads[MOST_THREADS];
static bool done[MOST_THREADS];
static char stacks[MOST_THREADS][STACK];

#define __global__
#define __device__ static
#define __shared__ static
static void __syncthreads() { swapcontext(&threads[threadIdx.x], &scheduler); }

#include KERNELS

typedef void (*Body)(void **);

template <auto kernel> struct Unpacked;
template <class A, void (*kernel)(A)> struct Unpacked<kernel> {
    static void call(void **parameters) { kernel(*(std::remove_const_t<A> *)parameters[0]); }
};

struct Kernel { const char *name; Body body; };
static Kernel table[] = {
    {"quantize_forward", Unpacked<quantize_forward>::call},
    {"quantize_backward", Unpacked<quantize_backward>::call},
    {"finish_backward", Unpacked<finish_backward>::call},
    {"clip_values", Unpacked<clip_values>::call},
    {"clip_gradients", Unpacked<clip_gradients>::call},
    {"sizes_forward", Unpacked<sizes_forward>::call},
    {"join_sizes", Unpacked<join_sizes>::call},
    {"sizes_backward", Unpacked<sizes_backward>::call},
};
static int launches = 0;

static Body running;
static void **arguments;

static void run_thread() {
    running(arguments);
    done[threadIdx.x] = true;
}

static void run_block(Body body, void **parameters) {
    running = body;
    arguments = parameters;
    for (unsigned int k = 0; k < blockDim.x; ++k) {
        getcontext(&threads[k]);
        threads[k].uc_stack.ss_sp = stacks[k];
        threads[k].uc_stack.ss_size = STACK;
        threads[k].uc_link = &scheduler;
        makecontext(&threads[k], run_thread, 0);
        done[k] = false;
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned int k = 0; k < blockDim.x; ++k) {
            if (done[k]) continue;
            threadIdx = {k, 0, 0};
            swapcontext(&scheduler, &threads[k]);
            any = any || !done[k];
        }
    }
}

extern "C" {
int cuInit(unsigned int) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { *context = table; return 0; }
int cuCtxSetCurrent(void *context) { return context == table ? 0 : 201; }
int cuModuleLoadData(void **module, const void *image) { *module = table; return std::strcmp((const char *)image, "image"); }
int cuGetErrorString(int, const char **text) { *text = "emulated"; return 0; }
int emulated_launches() { return launches; }

int cuModuleGetFunction(void **function, void *module, const char *name) {
    for (Kernel &kernel : table)
        if (module == table && std::string(name) == kernel.name) {
            *function = &kernel;
            return 0;
        }
    return 500;
}

int cuLaunchKernel(void *function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,
                   unsigned int bz, unsigned int, void *stream, void **parameters, void **extra) {
    if (gx < 1 || gy != 1 || gz != 1 || bx < 1 || bx > MOST_THREADS || by != 1 || bz != 1 || stream || extra) return 1;
    const Kernel *kernel = (Kernel *)function;
    gridDim = {gx, 1, 1};
    blockDim = {bx, 1, 1};
    ++launches;
    for (unsigned int k = 0; k < gx; ++k) {
        blockIdx = {k, 0, 0};
        run_block(kernel->body, parameters);
    }
    return 0;
}
}
