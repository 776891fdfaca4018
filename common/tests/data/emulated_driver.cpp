// A CUDA driver for tests without a GPU: kernels are compiled by the C++ compiler, and run on the host's arrays.
//
// Threads take turns: each runs to a place where it waits for others, and looks again in the next round. Blocks follow one
// another, so a shared array is a static one. Those of a cooperative launch run together, each with its own dynamic one:
// each goes as far as it can before the next one does, so that nothing is right that only happens to be in step.
// There are two devices. A kernel starts only in a thread whose context is that of the kernel's device.
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <vector>

struct Dim { unsigned int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

static const int MOST_THREADS = 256, STACK = 1 << 14;
static const int PROCESSORS = 8, SHARED_OF_A_PROCESSOR = 227 << 10;

struct Block { unsigned int arrived, round; std::unique_ptr<char[]> shared; };
static Block *block;    // the one whose thread runs
static ucontext_t scheduler, *thread;
static bool waits, ended;    // the block for others; the thread that ran

static void give_way() { swapcontext(thread, &scheduler); }

#define __global__
#define __device__ static
#define __shared__ static
#define SHARED_MEMORY(name) Items *name = (Items *)block->shared.get()
#define WHILE_WAITING() (waits = true, give_way())
static void __threadfence() {}
static unsigned int atomicAdd(unsigned int *address, unsigned int value) { return (*address += value) - value; }
static void __syncthreads() {
    const unsigned int round = block->round;
    if (++block->arrived == blockDim.x) {
        block->arrived = 0;
        ++block->round;
    }
    while (block->round == round) give_way();
}

namespace quantizers {
#include "quantizers.cu"
}
namespace lstm {
#include "lstm.cu"
}

typedef void (*Body)(void **);

template <auto kernel> struct Unpacked;
template <class A, void (*kernel)(A)> struct Unpacked<kernel> {
    static void call(void **parameters) { kernel(*(std::remove_const_t<A> *)parameters[0]); }
};

struct Kernel { const char *name; Body body; int most_shared; void *context; };
static const Kernel table[] = {
    {"quantize_forward", Unpacked<quantizers::quantize_forward>::call, 0, nullptr},
    {"quantize_backward", Unpacked<quantizers::quantize_backward>::call, 0, nullptr},
    {"finish_backward", Unpacked<quantizers::finish_backward>::call, 0, nullptr},
    {"clip_values", Unpacked<quantizers::clip_values>::call, 0, nullptr},
    {"clip_gradients", Unpacked<quantizers::clip_gradients>::call, 0, nullptr},
    {"sizes_forward", Unpacked<quantizers::sizes_forward>::call, 0, nullptr},
    {"join_sizes", Unpacked<quantizers::join_sizes>::call, 0, nullptr},
    {"sizes_backward", Unpacked<quantizers::sizes_backward>::call, 0, nullptr},
    {"lstm_forward", Unpacked<lstm::lstm_forward>::call, 0, nullptr},
    {"lstm_backward", Unpacked<lstm::lstm_backward>::call, 0, nullptr},
};
static int launches = 0;

static char contexts[2];
static thread_local void *current = nullptr;
static bool is_context(void *context) { return context == contexts || context == contexts + 1; }

static Body running;
static void **arguments;

static void run_thread() {
    running(arguments);
    ended = true;
}

static void run_blocks(unsigned int first, unsigned int count, int shared) {
    const unsigned int num = count * blockDim.x;
    std::vector<ucontext_t> threads(num);
    std::vector<Block> blocks(count);
    std::vector<bool> done(num, false);
    const std::unique_ptr<char[]> stacks(new char[(size_t)num * STACK]);
    for (Block &b : blocks) b.shared.reset(new char[shared]);
    for (unsigned int k = 0; k < num; ++k) {
        getcontext(&threads[k]);
        threads[k].uc_stack.ss_sp = stacks.get() + (size_t)k * STACK;
        threads[k].uc_stack.ss_size = STACK;
        threads[k].uc_link = &scheduler;
        makecontext(&threads[k], run_thread, 0);
    }
    const auto run_round = [&](unsigned int b) {    // the number of threads that ended
        unsigned int num_ended = 0;
        block = &blocks[b];
        blockIdx = {first + b, 0, 0};
        for (unsigned int k = 0; k < blockDim.x; ++k) {
            const unsigned int index = b * blockDim.x + k;
            if (done[index]) continue;
            threadIdx = {k, 0, 0};
            thread = &threads[index];
            ended = false;
            swapcontext(&scheduler, thread);
            done[index] = ended;
            num_ended += ended;
        }
        return num_ended;
    };
    std::vector<unsigned int> left(count, blockDim.x);
    for (unsigned int all = num; all > 0;) {
        for (unsigned int b = 0; b < count; ++b) {
            for (waits = false; left[b] > 0 && !waits;) {
                const unsigned int num_ended = run_round(b);
                left[b] -= num_ended;
                all -= num_ended;
            }
        }
    }
}

static int occupancy(int shared) { return SHARED_OF_A_PROCESSOR / (shared + 1024); }

extern "C" {
int cuInit(unsigned int) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number < 2 ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = contexts + device; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return is_context(context) ? 0 : 201; }
int cuGetErrorString(int, const char **text) { *text = "emulated"; return 0; }
int emulated_launches() { return launches; }

int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 16: *value = PROCESSORS; return 0;
    case 75: *value = 9; return 0;
    case 76: *value = 0; return 0;
    case 95: *value = 1; return 0;
    case 97: *value = SHARED_OF_A_PROCESSOR; return 0;
    default: return 1;
    }
}

int cuModuleLoadData(void **module, const void *image) {
    *module = current;
    return current ? std::strcmp((const char *)image, "image") : 201;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    for (const Kernel &kernel : table)
        if (is_context(module) && std::string(name) == kernel.name) {
            *function = new Kernel{kernel.name, kernel.body, kernel.most_shared, module};
            return 0;
        }
    return 500;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 8 || value < 0 || value > SHARED_OF_A_PROCESSOR) return 1;
    ((Kernel *)function)->most_shared = value;
    return 0;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int, size_t shared) {
    *blocks = occupancy(shared);
    return 0;
}

int cuLaunchKernel(void *function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,
                   unsigned int bz, unsigned int shared, void *stream, void **parameters, void **extra) {
    if (gx < 1 || gy != 1 || gz != 1 || bx < 1 || bx > MOST_THREADS || by != 1 || bz != 1 || shared || stream || extra)
        return 1;
    if (((Kernel *)function)->context != current) return 400;
    gridDim = {gx, 1, 1};
    blockDim = {bx, 1, 1};
    ++launches;
    running = ((Kernel *)function)->body;
    arguments = parameters;
    for (unsigned int k = 0; k < gx; ++k) run_blocks(k, 1, 0);
    return 0;
}

int cuLaunchCooperativeKernel(void *function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                              unsigned int by, unsigned int bz, unsigned int shared, void *stream, void **parameters) {
    const Kernel *kernel = (Kernel *)function;
    if (gx < 1 || gy != 1 || gz != 1 || bx < 1 || bx > MOST_THREADS || by != 1 || bz != 1 || stream) return 1;
    if (kernel->context != current) return 400;
    if ((int)shared > kernel->most_shared && shared > 48 << 10) return 1;
    if ((int)gx > PROCESSORS * occupancy(shared)) return 720;
    gridDim = {gx, 1, 1};
    blockDim = {bx, 1, 1};
    ++launches;
    running = kernel->body;
    arguments = parameters;
    run_blocks(0, gx, shared);
    return 0;
}
}
