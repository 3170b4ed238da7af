// Blocks of threads as fibers: each runs until it waits, then the next one does.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

int largest_grid = 1 << 30, launches = 0;
const char* launcher = "";

namespace {

constexpr int kLargestBlock = 1024, kLanes = 32;
constexpr size_t kStack = 128 << 10;

struct Barrier {
  int arrived, expected;
  unsigned generation;
};

struct Fiber {
  std::vector<char> stack;
  ucontext_t start;
  jmp_buf place;
  bool started, finished;
  int exchanges;
};

std::vector<Fiber> fibers;
Barrier block_barrier, warp_barrier[kLargestBlock / kLanes];
double slots[2][kLargestBlock];
const std::function<void()>* current_body;
ucontext_t first_entry;
jmp_buf scheduler;
bool progress;
const char* error = "";

void finish() {
  fibers[threadIdx.x].finished = progress = true;
  _longjmp(scheduler, 1);
}

void entry() {
  (*current_body)();
  finish();
}

void wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    progress = true;
    return;
  }
  const unsigned generation = barrier.generation;
  while (barrier.generation == generation) {
    if (_setjmp(fibers[threadIdx.x].place) == 0) _longjmp(scheduler, 1);
  }
}

void resume(int thread) {
  Fiber& fiber = fibers[thread];
  threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  swapcontext(&first_entry, &fiber.start);
}

bool run_block(int threads) {
  fibers.resize(std::max<size_t>(fibers.size(), threads));
  block_barrier = {0, threads, 0};
  std::fill(std::begin(warp_barrier), std::end(warp_barrier), Barrier{0, kLanes, 0});
  for (int thread = 0; thread < threads; ++thread) {
    Fiber& fiber = fibers[thread];
    fiber.stack.resize(kStack);
    fiber.started = fiber.finished = false;
    fiber.exchanges = 0;
    getcontext(&fiber.start);
    fiber.start.uc_stack = {fiber.stack.data(), 0, kStack};
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, &entry, 0);
  }
  int left = threads;
  while (left > 0) {
    progress = false;
    left = 0;
    for (int thread = 0; thread < threads; ++thread) {
      if (!fibers[thread].finished) resume(thread);
      left += !fibers[thread].finished;
    }
    if (left > 0 && !progress) return false;
  }
  return true;
}

}  // namespace

void wait_for_block() { wait(block_barrier); }
void wait_for_warp() { wait(warp_barrier[threadIdx.x / kLanes]); }
double* exchange_slots() { return slots[fibers[threadIdx.x].exchanges++ % 2]; }
const char* last_error() { return error; }

void run(int grid, int block, const std::function<void()>& body) {
  static std::mt19937 random(2024);
  error = "";
  grid = std::min(grid, largest_grid);
  gridDim.x = grid;
  blockDim.x = block;
  current_body = &body;
  std::vector<int> order(grid);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (int index : order) {
    blockIdx.x = index;
    if (run_block(block)) continue;
    error = "the threads of a block do not agree about a barrier";
    return;
  }
}

}  // namespace emulation
