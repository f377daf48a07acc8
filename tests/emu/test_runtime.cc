/* The emulator finds faults: each case is a small program with a flag that plants one, run in a process of its own, sound
 * over some seeds without a word, and faulty with the report that is expected (over some seeds, at least once).
 *
 *     emu_runtime            all cases        emu_runtime NAME 0|1    one, in this process, sound or faulty */
#include <string>

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/cuda/mma.cuh"

#define NEED(condition)                                                              \
    do {                                                                             \
        if (condition) break;                                                        \
        fprintf(stderr, "wrong: %s, line %d\n", #condition, __LINE__);               \
        exit(EXIT_FAILURE);                                                          \
    } while (0)
#define OK(call) NEED((call) == cudaSuccess)

/* port.cuh's launches report through it */
hx_status hx__cuda_check(cudaError_t error, const char *what) {
    return error == cudaSuccess ? HX_OK : HX_FAIL(HX_ERR_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

enum { N = 256 };

static hx_cuda_stream new_stream() {
    hx_cuda_stream s = {};
    OK(cudaStreamCreateWithFlags(&s.handle, cudaStreamNonBlocking));
    return s;
}
template <class T> static T *new_array(int n) {
    T *p;
    OK(cudaMalloc(&p, (size_t)n * sizeof(T)));
    return p;
}
/* count, count + 1, .. */
static float *new_numbers(hx_cuda_stream *s, int n) {
    float host[1024], *p = new_array<float>(n);
    for (int i = 0; i < n; i++) host[i] = (float)i;
    OK(cudaMemcpyAsync(p, host, (size_t)n * sizeof *p, cudaMemcpyHostToDevice, s->handle));
    return p;
}
template <class T> static void read(hx_cuda_stream *s, T *host, const T *p, int n) {
    OK(cudaMemcpyAsync(host, p, (size_t)n * sizeof *p, cudaMemcpyDeviceToHost, s->handle));
    OK(cudaStreamSynchronize(s->handle));
}

/* ---- barriers and shared memory ---- */

static __global__ void reverse(const float *x, float *y, bool fault) {
    HX_SHARED(float, tile, [N]);
    tile[threadIdx.x] = x[threadIdx.x];
    if (!fault) __syncthreads();
    y[threadIdx.x] = tile[N - 1 - threadIdx.x];
}
static void missing_barrier(bool fault) {
    hx_cuda_stream s = new_stream();
    float *x = new_numbers(&s, N), *y = new_array<float>(N), host[N];
    NEED(hx_launch(&s, "reverse", 1, N, 0, reverse, x, y, fault) == HX_OK);
    read(&s, host, y, N);
    for (int i = 0; i < N; i++) NEED(host[i] == (float)(N - 1 - i));
}

static __global__ void diverge(float *y, bool fault) {
    if (!fault || threadIdx.x < 100) __syncthreads();
    y[threadIdx.x] = 1.0f;
}
static void divergent_barrier(bool fault) {
    hx_cuda_stream s = new_stream();
    NEED(hx_launch(&s, "diverge", 3, N, 0, diverge, new_array<float>(N), fault) == HX_OK);
    OK(cudaDeviceSynchronize());
}

static __global__ void overrun(float *y, int n) {
    HX_DYNAMIC_SHARED(float, rows);
    if (threadIdx.x == 0)
        for (int i = 0; i < n; i++) rows[i] = (float)i;
    __syncthreads();
    y[threadIdx.x] = rows[threadIdx.x];
}
static void shared_overrun(bool fault) {
    hx_cuda_stream s = new_stream();
    NEED(hx_launch(&s, "overrun", 1, 100, 100 * sizeof(float), overrun, new_array<float>(100), 100 + fault) == HX_OK);
    OK(cudaDeviceSynchronize());
}

static __global__ void index(float *y, int n) {
    HX_SHARED(float, row, [8]);
    for (int i = 0; i < n; i++) row[i] = 0.0f;
    y[0] = row[0];
}
static void array_index(bool fault) {
    hx_cuda_stream s = new_stream();
    NEED(hx_launch(&s, "index", 1, 1, 0, index, new_array<float>(1), 8 + fault) == HX_OK);
    OK(cudaDeviceSynchronize());
}

static __global__ void big(float *y) {
    HX_DYNAMIC_SHARED(float, rows);
    y[0] = rows[0] = 1.0f;
}
static void shared_limit(bool fault) {
    hx_cuda_stream s = new_stream();
    const size_t n_bytes = 227 * 1024 + (fault ? 1 : 0);
    NEED(hx_launch(&s, "big", 1, 1, n_bytes, big, new_array<float>(1)) == HX_OK);
    OK(cudaDeviceSynchronize());
}

/* ---- the warp ---- */

static __global__ void warp_sums(const float *x, float *y, bool fault) {
    float sum = x[threadIdx.x];
    if (fault && threadIdx.x % 32 >= 16) return;
    sum = hx_warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[threadIdx.x / 32] = sum;
}
static void missing_lane(bool fault) {
    hx_cuda_stream s = new_stream();
    float host[N / 32], *y = new_array<float>(N / 32);
    NEED(hx_launch(&s, "warp_sums", 1, N, 0, warp_sums, new_numbers(&s, N), y, fault) == HX_OK);
    read(&s, host, y, N / 32);
    for (int i = 0; i < N / 32; i++) NEED(host[i] == (float)(1024 * i + 496));
}

static __global__ void pass(const float *x, float *y, int from) {
    const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    const float got = threadIdx.x < 16 ? __shfl_sync(mask, x[threadIdx.x], from) : __shfl_sync(mask, x[threadIdx.x], 31);
    y[threadIdx.x] = got;
}
static void lane_outside(bool fault) {
    hx_cuda_stream s = new_stream();
    float host[32], *y = new_array<float>(32);
    NEED(hx_launch(&s, "pass", 1, 32, 0, pass, new_numbers(&s, 32), y, fault ? 16 : 5) == HX_OK);
    read(&s, host, y, 32);
    for (int i = 0; i < 32; i++) NEED(host[i] == (i < 16 ? 5.0f : 31.0f));
}

enum { LINE_OF_XOR = __LINE__ + 5 };
static __global__ void shuffles(float *y) {
    const float lane = (float)threadIdx.x;
    y[threadIdx.x] = __shfl_up_sync(HX_FULL_MASK, lane, 3);
    y[32 + threadIdx.x] = __shfl_down_sync(HX_FULL_MASK, lane, 3, 8);
    y[64 + threadIdx.x] = __shfl_xor_sync(HX_FULL_MASK, lane, 5);
    y[96 + threadIdx.x] = __shfl_sync(HX_FULL_MASK, lane, 9, 8);
    y[128 + threadIdx.x] = (float)__popc(__ballot_sync(HX_FULL_MASK, threadIdx.x < 7));
}
/* a wrong lane needs no flag: the emulator plants it */
static void wrong_lane(bool fault) {
    hx_cuda_stream s = new_stream();
    float host[160], *y = new_array<float>(160);
    if (fault) setenv("HELIX_EMU_PLANT", ("shuffle:tests/emu/test_runtime.cc:" + std::to_string(LINE_OF_XOR)).c_str(), 1);
    NEED(hx_launch(&s, "shuffles", 1, 32, 0, shuffles, y) == HX_OK);
    read(&s, host, y, 160);
    for (int i = 0; i < 32; i++) {
        NEED(host[i] == (float)(i < 3 ? i : i - 3));
        NEED(host[32 + i] == (float)(i % 8 < 5 ? i + 3 : i));
        NEED(host[64 + i] == (float)(i ^ 5));
        NEED(host[96 + i] == (float)(i / 8 * 8 + 1));
        NEED(host[128 + i] == 7.0f);
    }
}

/* ---- memory ---- */

static __global__ void copy_rows(const float *x, float *y, int n) {
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) y[i % N] = x[i];
}
static void out_of_bounds(bool fault) {
    hx_cuda_stream s = new_stream();
    float *x = new_numbers(&s, N);
    /* pages begin with a canary or end with one: beyond both */
    NEED(hx_launch(&s, "copy_rows", 1, 32, 0, copy_rows, x, new_array<float>(N), fault ? N + 1024 : N) == HX_OK);
    OK(cudaDeviceSynchronize());
}
static void use_after_free(bool fault) {
    hx_cuda_stream s = new_stream();
    float *x = new_numbers(&s, N), *y = new_array<float>(N);
    if (fault) OK(cudaFree(x));
    NEED(hx_launch(&s, "copy_rows", 1, 32, 0, copy_rows, x, y, N) == HX_OK);
    OK(cudaFree(y)); /* waits */
}
static void host_access(bool fault) {
    hx_cuda_stream s = new_stream();
    float *x = new_numbers(&s, N), host[N];
    read(&s, host, x, N);
    NEED((fault ? x : host)[3] == 3.0f);
}
static __global__ void vectors(const float *x, float *y) {
    *reinterpret_cast<float4 *>(y) = *reinterpret_cast<const float4 *>(x);
}
static void misaligned(bool fault) {
    hx_cuda_stream s = new_stream();
    NEED(hx_launch(&s, "vectors", 1, 1, 0, vectors, new_numbers(&s, N) + fault, new_array<float>(4)) == HX_OK);
    OK(cudaDeviceSynchronize());
}
static __global__ void both_write(float *y, bool fault) {
    if (threadIdx.x == 0) y[fault ? 0 : blockIdx.x] = (float)blockIdx.x;
}
static void race_of_blocks(bool fault) {
    hx_cuda_stream s = new_stream();
    NEED(hx_launch(&s, "both_write", 8, 32, 0, both_write, new_array<float>(8), fault) == HX_OK);
    OK(cudaDeviceSynchronize());
}

/* ---- streams ---- */

static void missing_wait(bool fault) {
    hx_cuda_stream a = new_stream(), b = new_stream();
    cudaEvent_t ready;
    float host[N], *x = new_array<float>(N), *y = new_array<float>(N), *z = new_numbers(&a, N);
    OK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    NEED(hx_launch(&a, "copy_rows", 1, 32, 0, copy_rows, z, x, N) == HX_OK);
    OK(cudaEventRecord(ready, a.handle));
    if (!fault) OK(cudaStreamWaitEvent(b.handle, ready, 0));
    NEED(hx_launch(&b, "copy_rows", 1, 32, 0, copy_rows, x, y, N) == HX_OK);
    read(&b, host, y, N);
    for (int i = 0; i < N; i++) NEED(host[i] == (float)i);
}

/* Pinned memory is read when the stream gets there, pageable memory before the call returns. */
static void changed_source(bool fault) {
    hx_cuda_stream s = new_stream();
    float pageable[4] = {1, 2, 3, 4}, host[4], *pinned, *x = new_array<float>(4);
    OK(cudaMallocHost(reinterpret_cast<void **>(&pinned), sizeof pageable));
    memcpy(pinned, pageable, sizeof pageable);
    OK(cudaMemcpyAsync(x, fault ? pinned : pageable, sizeof pageable, cudaMemcpyHostToDevice, s.handle));
    (fault ? pinned : pageable)[0] = 7;
    read(&s, host, x, 4);
    NEED(host[0] == 1.0f);
}

static void host_function(bool) {
    hx_cuda_stream s = new_stream();
    static volatile int n_calls;
    OK(cudaStreamAddCallback(s.handle, [](cudaStream_t, cudaError_t, void *n) { (*static_cast<volatile int *>(n))++; }, const_cast<int *>(&n_calls), 0));
    for (int i = 0; n_calls == 0 && i < 5000; i++) usleep(1000); /* nobody waits in the runtime */
    NEED(n_calls == 1);
}

/* ---- tensor cores ---- */

static __global__ void stage(const uint4 *x, uint4 *y, bool fault) {
    HX_SHARED(uint4, tile, [32]);
    hx_cp_async_16(&tile[threadIdx.x], &x[threadIdx.x], true);
    hx_cp_async_commit();
    if (!fault) hx_cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = tile[31 - threadIdx.x];
}
static void missing_copy_wait(bool fault) {
    hx_cuda_stream s = new_stream();
    float host[128], *x = new_numbers(&s, 128), *y = new_array<float>(128);
    NEED(hx_launch(&s, "stage", 1, 32, 0, stage, reinterpret_cast<uint4 *>(x), reinterpret_cast<uint4 *>(y), fault) == HX_OK);
    read(&s, host, y, 128);
    for (int i = 0; i < 128; i++) NEED(host[i] == (float)(4 * (31 - i / 4) + i % 4));
}

/* D = A B of [16,16] and [16,8] through shared memory; B is loaded transposed from rows of k, or from rows of n */
template <class T> static __global__ void product(const T *a, const T *b, const T *b_by_n, float *d, bool by_n, int shift) {
    HX_SHARED(T, rows, [3 * 16 * 16]);
    T *const a_rows = rows, *const b_rows = rows + 256;
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    for (int i = lane; i < 256; i += 32) a_rows[i] = a[i];
    for (int i = lane; i < 128; i += 32) b_rows[i] = by_n ? b_by_n[i] : b[i];
    for (int i = lane; i < 128; i += 32) b_rows[128 + i] = T(0.0f);
    __syncwarp();
    uint32_t fragment[4], pair[4];
    float sum[4] = {};
    hx_ldmatrix_x4(fragment, a_rows + lane % 8 * 16 + lane / 8 % 2 * 128 + lane / 16 * 8 + shift);
    if (by_n) hx_ldmatrix_x4(pair, b_rows + lane % 8 * 16 + lane / 8 % 2 * 8);
    else hx_ldmatrix_x4_trans(pair, b_rows + lane % 16 * 8);
    hx_mma<T>(sum, fragment, {pair[0], pair[1]});
    for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}
template <class T> static void check_product(bool by_n, bool fault) {
    hx_cuda_stream s = new_stream();
    T a[16][16], b[16][8], b_by_n[8][16], *da = new_array<T>(256), *db = new_array<T>(128), *dn = new_array<T>(128);
    float d[16][8], *dd = new_array<float>(128);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) a[i][k] = T((float)((i * 7 + k * 3) % 11 - 5));
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) b_by_n[j][k] = b[k][j] = T((float)((k * 5 + j * 2) % 13 - 6) * 0.25f);
    OK(cudaMemcpyAsync(da, a, sizeof a, cudaMemcpyHostToDevice, s.handle));
    OK(cudaMemcpyAsync(db, b, sizeof b, cudaMemcpyHostToDevice, s.handle));
    OK(cudaMemcpyAsync(dn, b_by_n, sizeof b_by_n, cudaMemcpyHostToDevice, s.handle));
    NEED(hx_launch(&s, "product", 1, 32, 0, product<T>, da, db, dn, dd, by_n, fault ? 1 : 0) == HX_OK);
    read(&s, &d[0][0], dd, 128);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = 0.0f;
            for (int k = 0; k < 16; k++) sum += (float)a[i][k] * (float)b[k][j];
            NEED(d[i][j] == sum);
        }
}
static void tensor_cores(bool fault) {
    for (int by_n = 0; by_n < 2; by_n++) {
        check_product<__nv_bfloat16>(by_n, fault);
        check_product<__half>(by_n, fault);
    }
}

/* ---- half types ---- */

static void half_types(bool) {
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const __half h = __ushort_as_half((unsigned short)bits);
        const __nv_bfloat16 b = __ushort_as_bfloat16((unsigned short)bits);
        const float f = __half2float(h), w = __bfloat162float(b);
        NEED(f != f ? __hisnan(__float2half_rn(f)) : __half_as_ushort(__float2half_rn(f)) == bits);
        NEED(w != w ? __hisnan(__float2bfloat16_rn(w)) : __bfloat16_as_ushort(__float2bfloat16_rn(w)) == bits);
        if ((bits & 0x7fff) >= 0x7bff || bits >= 0x8000) continue;
        /* halfway to the next: to the even one */
        const float next = __half2float(__ushort_as_half((unsigned short)(bits + 1)));
        NEED(__half_as_ushort(__float2half_rn(0.5f * (f + next))) == bits + (bits & 1));
        NEED(__half_as_ushort(__float2half_rn(f + 0.51f * (next - f))) == bits + 1);
    }
    NEED(__half_as_ushort(__float2half_rn(65519.0f)) == 0x7bff && __half_as_ushort(__float2half_rn(65520.0f)) == 0x7c00);
}

/* ---- the cases ---- */

static const struct {
    const char *name;
    void (*run)(bool fault);
    const char *report; /* of the faulty twin; NULL: has none */
} cases[] = {
    {"missing_barrier", missing_barrier, "race"},
    {"divergent_barrier", divergent_barrier, "divergent barrier"},
    {"shared_overrun", shared_overrun, "out of bounds"},
    {"array_index", array_index, "out of bounds: index 8"},
    {"shared_limit", shared_limit, "wrong"},
    {"missing_lane", missing_lane, "deadlock"},
    {"lane_outside", lane_outside, "reads from lane 16"},
    {"wrong_lane", wrong_lane, "wrong"},
    {"out_of_bounds", out_of_bounds, "out of bounds: access"},
    {"use_after_free", use_after_free, "use after free"},
    {"host_access", host_access, "the host touched device memory"},
    {"misaligned", misaligned, "misaligned"},
    {"race_of_blocks", race_of_blocks, "race"},
    {"missing_wait", missing_wait, "wrong"},
    {"changed_source", changed_source, "wrong"},
    {"host_function", host_function, nullptr},
    {"missing_copy_wait", missing_copy_wait, "race"},
    {"tensor_cores", tensor_cores, "misaligned"},
    {"half_types", half_types, nullptr},
};

/* Run a case in a process of its own. @return what it wrote to stderr, and its exit code at the end */
static std::string output_of(const char *name, bool fault, int seed) {
    const std::string command = "HELIX_EMU_CHECK=1 HELIX_EMU_SEED=" + std::to_string(seed) + " /proc/" + std::to_string(getpid()) +
                                "/exe " + name + (fault ? " 1" : " 0") + " 2>&1; echo \" exit $?\"";
    std::string text;
    char line[1024];
    FILE *f = popen(command.c_str(), "r");
    NEED(f != nullptr);
    while (fgets(line, sizeof line, f) != nullptr) text += line;
    pclose(f);
    return text;
}

int main(int argc, char **argv) {
    enum { SEEDS = 8 };
    int n_failed = 0;
    for (const auto &c : cases) {
        int n_found = 0;
        if (argc == 3 && strcmp(argv[1], c.name) == 0) return c.run(atoi(argv[2]) != 0), 0;
        if (argc != 1) continue;
        for (int seed = 1; seed <= SEEDS; seed++) {
            const std::string sound = output_of(c.name, false, seed);
            const std::string faulty = c.report != nullptr ? output_of(c.name, true, seed) : "";
            if (sound != " exit 0\n") n_failed++, printf("FAILED %s, seed %d: %s", c.name, seed, sound.c_str());
            if (c.report != nullptr && faulty.find(c.report) != std::string::npos) n_found++;
            else if (faulty.find("exit 0") == std::string::npos && c.report != nullptr)
                n_failed++, printf("FAILED %s, seed %d: expected \"%s\", got %s", c.name, seed, c.report, faulty.c_str());
        }
        if (c.report != nullptr && n_found == 0) n_failed++, printf("FAILED %s: the fault was not found\n", c.name);
        else if (c.report != nullptr) printf("%-20s found with %d of %d seeds\n", c.name, n_found, SEEDS);
    }
    printf("%d failed\n", n_failed);
    return argc != 1 || n_failed > 0;
}
