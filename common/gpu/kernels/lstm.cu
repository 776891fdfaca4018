// What an LSTM layer does from frame to frame on a GPU: all frames of both directions in one launch.
//
// What the inputs give to the gates, and the gradients of the weights, are matrix products over all frames, which are
// left to nnabla. Here a group of blocks runs through the frames for one direction and ITEMS items of the batch. A block
// owns UNITS hidden units: their weights stay in its shared memory, their cells in registers, and what the others need
// of a frame goes through the GPU's memory. Blocks of a group wait for each other between frames, so all of them must be
// on the GPU at once: launch cooperatively. Sums have a fixed order: equal inputs give equal bits. No warp function is
// used, as in quantizers.cu. common/gpu/recurrent.py has the same structure and the same numbers.

#define THREADS 256    // of a block
#define UNITS 8        // of a block
#define ITEMS 4        // of a group
#define GATES 4        // input, forget, cell, output

// The driver that tests have in the place of a GPU's defines these two otherwise.
#ifndef SHARED_MEMORY
#define SHARED_MEMORY(name) extern __shared__ Items name[]
#define WHILE_WAITING()
#endif

struct Recurrence {
    const float *from_inputs;    // (frames, batch, directions, 4 hidden): what inputs and bias give to the gates
    const float *weights;        // (directions, 4 hidden, hidden)
    float *y;                    // (frames, batch, directions, hidden)
    // What the backward pass needs, in the order in which a direction runs; 0: not wanted. `gates` become gradients.
    float *gates;                // (directions, frames, batch, 4 hidden), activated
    float *cells, *states;       // (directions, frames, batch, hidden), cells after a frame and states before it
    const float *dy;
    float *dx;                   // gradients of `from_inputs`; 0: not wanted
    unsigned int *arrived;       // for each group how often blocks of it have finished a frame; 0 at first
    int frames, batch, directions, hidden;
    int first_group, add_dx;     // of this launch; whether to add to the gradient that is there
};

struct alignas(16) Items { float of[ITEMS]; };

typedef unsigned long long Index;

// Which part of the work is this block's, and which this thread's, if it has any.
struct Part {
    int direction, first_item, first_unit, blocks, group;
    int item, unit, owns;        // one unit of one item
};

__device__ Part part_of(const Recurrence &r) {
    Part p;
    const int tiles = (r.batch + ITEMS - 1) / ITEMS;
    p.blocks = (r.hidden + UNITS - 1) / UNITS;
    p.group = r.first_group + (int)blockIdx.x / p.blocks;
    p.direction = p.group / tiles;
    p.first_item = p.group % tiles * ITEMS;
    p.first_unit = (int)blockIdx.x % p.blocks * UNITS;
    p.item = p.first_item + (int)threadIdx.x / UNITS;
    p.unit = p.first_unit + (int)threadIdx.x % UNITS;
    p.owns = threadIdx.x < UNITS * ITEMS && p.item < r.batch && p.unit < r.hidden;
    return p;
}

__device__ int frame_of(const Recurrence &r, const Part &p, int step) { return p.direction ? r.frames - 1 - step : step; }

// Row of an array (frames, batch, directions, ...).
__device__ Index row_of(const Recurrence &r, const Part &p, int step, int item) {
    return ((Index)frame_of(r, p, step) * r.batch + item) * r.directions + p.direction;
}

// Row of an array (directions, frames, batch, ...) in the order of steps.
__device__ Index kept_row_of(const Recurrence &r, const Part &p, int step, int item) {
    return ((Index)p.direction * r.frames + step) * r.batch + item;
}

// Go on when all blocks of the group have come here `round` times; what they wrote before can be read then, past L1.
__device__ void wait_for_group(const Recurrence &r, const Part &p, int round) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        volatile unsigned int *arrived = r.arrived + p.group;
        atomicAdd(r.arrived + p.group, 1u);
        while (*arrived < (unsigned int)round * p.blocks) {
            WHILE_WAITING();
        }
        __threadfence();
    }
    __syncthreads();
}

// Of each thread a part of the products of a matrix (columns, rows) and a vector of `columns` for each item.
__device__ void multiply(const float *matrix, const Items *vector, int columns, int rows, Items *sums) {
    const int row = (int)threadIdx.x % rows;
    Items sum = {};
    #pragma unroll 8
    for (int k = (int)threadIdx.x / rows; k < columns; k += THREADS / rows) {
        const float w = matrix[k * rows + row];
        const Items v = vector[k];
        for (int b = 0; b < ITEMS; ++b) sum.of[b] = fmaf(w, v.of[b], sum.of[b]);
    }
    sums[threadIdx.x] = sum;
}

// One row of those products for the item of this thread: the sum of the parts.
__device__ float total(const Items *sums, int row, int rows) {
    float sum = 0.0f;
    for (int k = row; k < THREADS; k += rows) sum += sums[k].of[threadIdx.x / UNITS];
    return sum;
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

extern "C" __global__ void lstm_forward(const Recurrence r) {
    const int rows = GATES * UNITS, hidden = r.hidden;
    SHARED_MEMORY(shared);
    Items *state = shared, *sums = state + hidden;      // (hidden) and (THREADS)
    float *weights = (float *)(sums + THREADS);         // (hidden, rows)
    const Part p = part_of(r);
    for (int k = threadIdx.x; k < hidden * rows; k += THREADS) {
        const int unit = p.first_unit + k % UNITS, gate = k % rows / UNITS;
        weights[k] = unit < hidden ? r.weights[((Index)(p.direction * GATES + gate) * hidden + unit) * hidden + k / rows]
                                   : 0.0f;
    }
    float cell = 0.0f, h = 0.0f;
    for (int step = 0; step < r.frames; ++step) {
        float a[GATES];
        if (p.owns)    // on its way while this block waits
            for (int g = 0; g < GATES; ++g)
                a[g] = r.from_inputs[(row_of(r, p, step, p.item) * GATES + g) * hidden + p.unit];
        if (step) {
            wait_for_group(r, p, step);
            for (int k = threadIdx.x; k < hidden; k += THREADS) {
                Items column;
                for (int b = 0; b < ITEMS; ++b)
                    column.of[b] = p.first_item + b < r.batch
                        ? *(volatile float *)(r.y + row_of(r, p, step - 1, p.first_item + b) * hidden + k) : 0.0f;
                state[k] = column;
            }
            __syncthreads();
            multiply(weights, state, hidden, rows, sums);
            __syncthreads();
        }
        if (!p.owns) continue;
        if (step)
            for (int g = 0; g < GATES; ++g) a[g] += total(sums, g * UNITS + threadIdx.x % UNITS, rows);
        const Index kept = kept_row_of(r, p, step, p.item);
        if (r.states) r.states[kept * hidden + p.unit] = h;
        a[0] = sigmoid(a[0]);
        a[1] = sigmoid(a[1]);
        a[2] = tanhf(a[2]);
        a[3] = sigmoid(a[3]);
        cell = a[1] * cell + a[0] * a[2];
        h = a[3] * tanhf(cell);
        r.y[row_of(r, p, step, p.item) * hidden + p.unit] = h;
        if (r.cells) r.cells[kept * hidden + p.unit] = cell;
        if (r.gates)
            for (int g = 0; g < GATES; ++g) r.gates[(kept * GATES + g) * hidden + p.unit] = a[g];
    }
}

extern "C" __global__ void lstm_backward(const Recurrence r) {
    const int hidden = r.hidden, columns = GATES * hidden;
    SHARED_MEMORY(shared);
    Items *later = shared, *sums = later + columns;     // gradients of the gates one step later, and (THREADS)
    float *weights = (float *)(sums + THREADS);         // (columns, UNITS)
    const Part p = part_of(r);
    for (int k = threadIdx.x; k < columns * UNITS; k += THREADS) {
        const int unit = p.first_unit + k % UNITS;
        weights[k] = unit < hidden ? r.weights[((Index)p.direction * columns + k / UNITS) * hidden + unit] : 0.0f;
    }
    float to_cell = 0.0f;
    for (int step = r.frames - 1; step >= 0; --step) {
        const int is_last = step == r.frames - 1;
        const Index kept = kept_row_of(r, p, step, p.item), row = row_of(r, p, step, p.item);
        float a[GATES], cell, before, dh;
        if (p.owns) {    // on their way while this block waits
            for (int g = 0; g < GATES; ++g) a[g] = r.gates[(kept * GATES + g) * hidden + p.unit];
            cell = r.cells[kept * hidden + p.unit];
            before = step ? r.cells[kept_row_of(r, p, step - 1, p.item) * hidden + p.unit] : 0.0f;
            dh = r.dy[row * hidden + p.unit];
        }
        if (!is_last) {
            wait_for_group(r, p, r.frames - 1 - step);
            for (int k = threadIdx.x; k < columns; k += THREADS) {
                Items column;
                for (int b = 0; b < ITEMS; ++b)
                    column.of[b] = p.first_item + b < r.batch
                        ? *(volatile float *)(r.gates + kept_row_of(r, p, step + 1, p.first_item + b) * columns + k) : 0.0f;
                later[k] = column;
            }
            __syncthreads();
            multiply(weights, later, columns, UNITS, sums);
            __syncthreads();
        }
        if (!p.owns) continue;
        if (!is_last) dh += total(sums, threadIdx.x % UNITS, UNITS);
        const float squashed = tanhf(cell), i = a[0], f = a[1], g = a[2], o = a[3];
        const float dc = to_cell + dh * o * (1.0f - squashed * squashed);
        const float gradients[GATES] = {dc * g * i * (1.0f - i), dc * before * f * (1.0f - f), dc * i * (1.0f - g * g),
                                        dh * squashed * o * (1.0f - o)};
        to_cell = dc * f;
        for (int k = 0; k < GATES; ++k) {
            r.gates[(kept * GATES + k) * hidden + p.unit] = gradients[k];
            if (!r.dx) continue;
            float *dx = r.dx + (row * GATES + k) * hidden + p.unit;
            *dx = r.add_dx ? *dx + gradients[k] : gradients[k];
        }
    }
}
