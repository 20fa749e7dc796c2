// Calls, local memory, variables of the module, and library functions.
extern "C" __device__ int printf(const char*, ...);
#include <cuda_fp16.h>
#define KERNEL extern "C" __global__ void

__constant__ float weights[4] = {1.5f, -2.0f, 0.25f, 8.0f};
__device__ int counter = 5;
__device__ int zeros[64];
__device__ const char text[] = "between";
__device__ int* pointer = &counter;
__constant__ double pair[2] = {0.5, -1.0};

//@ clean grid=1 block=32 args=f32:32:iota,f32:32:zero
KERNEL constant_array(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x] * weights[threadIdx.x % 4] + (float)pair[1]; }
//@ clean grid=1 block=32 args=i32:32:zero
KERNEL module_variable(int* out) {
    zeros[threadIdx.x] += threadIdx.x;
    out[threadIdx.x] = zeros[threadIdx.x] + counter;
    if (counter != 5) __trap();
}
//@ clean grid=1 block=32 args=i32:32:zero
KERNEL address_in_an_initialiser(int* out) {
    int* volatile* p = (int* volatile*)&pointer;
    out[threadIdx.x] = **p;
    if (**p != 5) __trap();
}
//@ clean grid=1 block=7 args=i8:7:zero
KERNEL string(char* out) { out[threadIdx.x] = text[threadIdx.x]; if (text[0] != 'b') __trap(); }
//@ finds=GlobalRace grid=2 block=32 args=i32:64:zero
KERNEL module_variable_of_two_blocks(int* out) {
    counter = blockIdx.x;
    out[blockIdx.x * 32 + threadIdx.x] = counter;
}
//@ finds=OutOfBounds grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL past_the_end_of_a_module_variable(const int* in, int* out) { out[threadIdx.x] = zeros[in[threadIdx.x] * 3]; }

__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int twice(int x) { return square(x) + square(x + 1); }
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL calls(const int* in, int* out) {
    int x = in[threadIdx.x];
    out[threadIdx.x] = twice(x);
    if (out[threadIdx.x] != x * x + (x + 1) * (x + 1)) __trap();
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL calls_in_branches(const int* in, int* out) {
    int x = in[threadIdx.x];
    int y = x % 3 == 0 ? square(x) : x % 3 == 1 ? twice(x) : -x;
    out[threadIdx.x] = y + __reduce_add_sync(0xffffffffu, 1);
    int right = x % 3 == 0 ? x * x : x % 3 == 1 ? x * x + (x + 1) * (x + 1) : -x;
    if (y != right) __trap();
}
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
//@ clean grid=1 block=32 args=i32:32:zero
KERNEL recursion(int* out) {
    out[threadIdx.x] = fibonacci(threadIdx.x % 9);
    if (threadIdx.x == 8 && out[8] != 21) __trap();
}
__device__ __noinline__ int endless(int n, int* p) { return n == 0 ? 0 : p[n & 31] - endless(endless(n + 1, p), p); }
//@ finds=StackOverflow grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL recursion_without_end(int* in, int* out) { out[threadIdx.x] = endless(in[threadIdx.x] + 1, in); }
__device__ __noinline__ void put(int* at, int value) { *at = value; }
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL pointer_to_a_local_variable(const int* in, int* out) {
    int mine;
    put(&mine, in[threadIdx.x] + 1);
    out[threadIdx.x] = mine;
}
struct Big { int a[6]; char b; };
__device__ __noinline__ Big change(Big big, int by) { big.a[by % 6] += by; big.b = 3; return big; }
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL structure_by_value(const int* in, int* out) {
    Big big = {{1, 2, 3, 4, 5, 6}, 0};
    big = change(big, in[threadIdx.x]);
    out[threadIdx.x] = big.a[in[threadIdx.x] % 6] + big.b;
}
//@ finds=SharedRace grid=1 block=64 args=i32:64:zero
KERNEL race_through_a_call(int* out) {
    __shared__ int cells[64];
    put(&cells[threadIdx.x], threadIdx.x);
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
//@ clean grid=1 block=64 args=i32:64:zero
KERNEL exchange_through_a_call(int* out) {
    __shared__ int cells[64];
    put(&cells[threadIdx.x], threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
//@ finds=UninitializedRead grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL local_memory_never_written(const int* in, int* out) {
    int values[16];
    for (int i = 0; i < 8; ++i) values[(in[threadIdx.x] + i) % 9] = i;
    out[threadIdx.x] = values[9 + in[threadIdx.x] % 4];
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL local_memory(const int* in, int* out) {
    int values[16];
    for (int i = 0; i < 16; ++i) values[(in[threadIdx.x] + i) % 16] = i;
    out[threadIdx.x] = values[in[threadIdx.x] % 16];
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL prints(const int* in, int* out) {
    if (in[threadIdx.x] > 1000) printf("unlikely %d\n", in[threadIdx.x]);
    out[threadIdx.x] = in[threadIdx.x];
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL prints_indeed(const int* in, int* out) {
    printf("thread %d\n", in[threadIdx.x]);
    out[threadIdx.x] = in[threadIdx.x];
}
//@ finds=Trap grid=1 block=32 args=i32:32:iota
KERNEL assertion(const int* in) { if (in[threadIdx.x] == 9) __trap(); }
__device__ int (*volatile chosen)(int);
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL unsupported_where_nothing_goes(const int* in, int* out) {
    out[threadIdx.x] = in[threadIdx.x];
    if (in[threadIdx.x] > 1000) out[threadIdx.x] = chosen(3);
}
//@ finds=Unsupported grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL unsupported_where_something_goes(const int* in, int* out) { if (in[threadIdx.x] == 7) out[threadIdx.x] = chosen(3); }

//@ clean grid=1 block=32 args=f32:32:iota,f32:32:zero
KERNEL trigonometry(const float* in, float* out) { out[threadIdx.x] = sinf(in[threadIdx.x] * 100000.0f) + cosf(in[threadIdx.x]) + tanf(in[threadIdx.x]); }
//@ clean grid=1 block=32 args=f64:32:iota,f64:32:zero
KERNEL double_functions(const double* in, double* out) {
    double x = in[threadIdx.x] + 1.0;
    out[threadIdx.x] = log(x) + exp(-x) + pow(x, 1.5) + sqrt(x) + rsqrt(x) + sin(x) + copysign(x, -1.0) + fmod(x, 3.0) + cbrt(x);
    if (fabs(log(8.0 + x - x) - 2.0794415416798357) > 1e-15 || fabs(pow(2.0 + x - x, 10.0) - 1024.0) > 1e-10) __trap();
    if (fabs(exp(1.0 + x - x) - 2.718281828459045) > 1e-14) __trap();
}
//@ clean grid=1 block=32 args=f32:32:iota,f32:32:zero
KERNEL single_functions(const float* in, float* out) {
    float x = in[threadIdx.x] + 0.5f;
    out[threadIdx.x] = logf(x) + expf(-x) + powf(x, 1.5f) + erff(x) + tanhf(x) + copysignf(x, -1.0f) + fmodf(x, 3.0f) + cbrtf(x) + atan2f(x, 2.0f);
    if (fabsf(powf(2.0f + x - x, 10.0f) - 1024.0f) > 1e-3f || copysignf(x, -1.0f) != -x) __trap();
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL half_functions(const int* in, int* out) {
    __half x = __float2half((float)in[threadIdx.x] / 8.0f + 0.5f);
    out[threadIdx.x] = (int)__half2float(hexp(hsin(x))) + (int)__half2float(hlog(x)) + (int)__half2float(hsqrt(x));
}
//@ clean grid=1 block=32 args=i64:32:iota,i64:64:zero
KERNEL wide_integers(const long long* in, unsigned long long* out) {
    unsigned __int128 x = (unsigned __int128)(in[threadIdx.x] + 1) << 60;
    unsigned __int128 y = x * 12345678901ull + 77 - (x >> 3);
    out[2 * threadIdx.x] = (unsigned long long)y;
    out[2 * threadIdx.x + 1] = (unsigned long long)(y >> 64);
    if (threadIdx.x == 0 && (unsigned long long)(((unsigned __int128)1 << 64) - 1 + 1 >> 64) != 1) __trap();
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL carries(const int* in, unsigned* out) {
    unsigned low, high, product;
    asm("add.cc.u32 %0, %3, 0xffffffff; addc.cc.u32 %1, 0xffffffff, 1; addc.u32 %2, 5, 6;" : "=r"(low), "=r"(high), "=r"(product) : "r"(in[threadIdx.x] + 1));
    if (low != in[threadIdx.x] || high != 1 || product != 12) __trap();
    asm("sub.cc.u32 %0, %3, 40; subc.cc.u32 %1, 0, 0; subc.u32 %2, 9, 4;" : "=r"(low), "=r"(high), "=r"(product) : "r"(in[threadIdx.x]));
    if (low != in[threadIdx.x] - 40u || high != 0xffffffffu || product != 4) __trap();
    asm("mad.lo.cc.u32 %0, %3, 0x80000000, 0x80000000; madc.hi.u32 %1, %3, 0x80000000, 1; addc.u32 %2, 0, 0;" : "=r"(low), "=r"(high), "=r"(product) : "r"(2 * in[threadIdx.x] + 1));
    if (low != 0 || high != in[threadIdx.x] + 2u) __trap();
    out[threadIdx.x] = low + high;
}
//@ clean grid=1 block=32 args=f32:32:iota,i32:32:zero
KERNEL small_floats(const float* in, int* out) {
    unsigned short pair, other;
    unsigned tf32;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(in[threadIdx.x]), "f"(1.0f));
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(other) : "f"(in[threadIdx.x] * 4000.0f), "f"(-1.5f));
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(tf32) : "f"(in[threadIdx.x] + 0.0004882813f * 3));
    if ((pair & 255) != 0x38 || (other & 255) != 0xbe || (tf32 & 0x1fff) != 0) __trap();
    out[threadIdx.x] = pair + other + tf32;
}
//@ finds=StaleRead grid=1 block=32 args=i32:32:iota
KERNEL non_coherent_read_of_what_it_wrote(int* values) {
    int seen;
    values[threadIdx.x] = 3;
    asm volatile("ld.global.nc.s32 %0, [%1];" : "=r"(seen) : "l"(values + threadIdx.x) : "memory");
    values[threadIdx.x] = seen + 1;
}
//@ finds=StaleRead grid=1 block=32 args=i32:32:iota,i32:32:iota
KERNEL non_coherent_read_of_what_it_writes(int* values, int* out) {
    out[threadIdx.x] = __ldg(&values[threadIdx.x]);
    values[threadIdx.x] = 3;
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:iota
KERNEL non_coherent_read(int* values, int* out) { out[threadIdx.x] = __ldg(&values[threadIdx.x]); }
//@ finds=UninitializedRead grid=1 block=32 args=i32:32:none,i32:32:zero
KERNEL reads_what_nobody_wrote(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x]; }
//@ finds=OutOfBounds grid=1 block=64 args=i32:32:iota,i32:64:zero
KERNEL past_the_end(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x]; }
//@ finds=Misaligned grid=1 block=32 args=i32:64:iota,i32:64:zero
KERNEL misaligned(const int* in, int* out) { *(long long*)(out + threadIdx.x + 1) = in[threadIdx.x]; }
