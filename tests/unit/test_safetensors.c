/* safetensors: what is written is read, and files that nobody should trust are not. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>

#include "io/ckpt/safetensors.h"
#include "tests/unit/test_ckpt_fixture.h"

TestSuite(safetensors, .init = fixture_open, .fini = fixture_close);

static char file[512];

static const char *path_of(const char *name) {
    snprintf(file, sizeof file, "%s/%s", folder, name);
    return file;
}

static void write_bytes(const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(path_of(name), "w");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

/* ---- writing and reading ---- */

/* Byte k of tensor i. */
static uint8_t byte_of(int64_t i, int64_t k) { return (uint8_t)(31 * i + 7 * k + (k >> 8)); }

static hx_status produce(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *out) {
    int64_t *fails_at = self;
    if (fails_at && i == *fails_at) return HX_FAIL(HX_ERR_STATE, "tensor %" PRId64 " is not to be had", i);
    for (int64_t k = 0; k < n_bytes; k++) ((uint8_t *)out)[k] = byte_of(i, offset + k);
    return HX_OK;
}

static const hx_st_tensor tensors[] = {
    {"w", HX_F32, {2, {3, 5}}, NULL},      {"half", HX_BF16, {1, {7}}, NULL},       {"odd", HX_U8, {1, {3}}, NULL},
    {"behind odd", HX_F64, {1, {2}}, NULL}, {"scalar", HX_I64, {0, {0}}, NULL},      {"empty", HX_F16, {2, {4, 0}}, NULL},
    {"na\"me \xc3\xa9\n", HX_BOOL, {1, {1}}, NULL}, {"c", HX_C64, {1, {2}}, NULL}, {"i", HX_I32, {3, {1, 2, 1}}, NULL}, {"b", HX_I8, {1, {9}}, NULL},
};
enum { N = sizeof tensors / sizeof *tensors };

static void expect_all(const hx_safetensors *st) {
    cr_assert_eq(hx_safetensors_count(st), N);
    for (int64_t i = 0; i < N; i++) {
        const hx_st_tensor *t;
        OK(hx_safetensors_get(st, tensors[i].name, &t));
        cr_expect_eq(t->dtype, tensors[i].dtype);
        cr_expect(hx_shape_equal(&t->shape, &tensors[i].shape), "%s", t->name);
        int64_t n_bytes = hx_shape_count(&t->shape) * (int64_t)hx_dtype_bytes(t->dtype);
        for (int64_t k = 0; k < n_bytes; k++) cr_assert_eq(((const uint8_t *)t->data)[k], byte_of(i, k), "%s", t->name);
    }
    for (int64_t i = 1; i < N; i++) cr_expect_lt(strcmp(hx_safetensors_at(st, i - 1)->name, hx_safetensors_at(st, i)->name), 0);
}

Test(safetensors, a_file_gives_back_what_was_written) {
    static const char *const metadata[][2] = {{"format", "pt"}, {"by", "a test"}};
    hx_safetensors *st;
    OK(hx_safetensors_write(path_of("a.safetensors"), tensors, N, metadata, 2, 0, produce, NULL));
    OK(hx_safetensors_open(file, &st));
    expect_all(st);
    cr_expect_null(hx_safetensors_find(st, "nothing"));
    cr_expect_null(hx_safetensors_at(st, N));
    const hx_st_tensor *absent;
    REFUSED(hx_safetensors_get(st, "nothing", &absent), HX_ERR_MISMATCH, "nothing");
    hx_safetensors_close(&st);
    cr_expect(!exists(".a.safetensors.tmp"));
}

Test(safetensors, shards_and_their_index_give_back_what_was_written) {
    hx_safetensors *st;
    OK(hx_safetensors_write(folder, tensors, N, NULL, 0, 40, produce, NULL));
    cr_expect(exists("model-00001-of-00004.safetensors") && exists("model.safetensors.index.json") && !exists("model.safetensors"));
    OK(hx_safetensors_open(folder, &st));
    expect_all(st);
    hx_safetensors_close(&st);
    OK(hx_safetensors_open(path_of("model.safetensors.index.json"), &st));
    hx_safetensors_close(&st);
    REFUSED(hx_safetensors_write(folder, tensors, N, NULL, 0, 40, produce, NULL), HX_ERR_ARG, "is there already");
}

Test(safetensors, a_folder_whose_tensors_fit_one_shard_has_one_file) {
    hx_safetensors *st;
    OK(hx_safetensors_write(folder, tensors, N, NULL, 0, 1 << 20, produce, NULL));
    cr_expect(exists("model.safetensors") && !exists("model.safetensors.index.json"));
    OK(hx_safetensors_open(folder, &st));
    expect_all(st);
    hx_safetensors_close(&st);
}

Test(safetensors, tensors_larger_than_a_piece_are_written_in_pieces) {
    const hx_st_tensor large[] = {{"large", HX_U8, {1, {(33 << 20) + 5}}, NULL}, {"small", HX_U8, {1, {2}}, NULL}};
    hx_safetensors *st;
    OK(hx_safetensors_write(path_of("large.safetensors"), large, 2, NULL, 0, 0, produce, NULL));
    OK(hx_safetensors_open(file, &st));
    const uint8_t *data = hx_safetensors_find(st, "large")->data;
    for (int64_t k = 0; k < large[0].shape.dims[0]; k++) cr_assert_eq(data[k], byte_of(0, k));
    hx_safetensors_close(&st);
}

Test(safetensors, a_write_that_fails_leaves_what_was_there) {
    int64_t last = N - 1;
    hx_safetensors *st;
    OK(hx_safetensors_write(path_of("a.safetensors"), tensors, N, NULL, 0, 0, produce, NULL));
    REFUSED(hx_safetensors_write(file, tensors, N, NULL, 0, 0, produce, &last), HX_ERR_STATE, "not to be had");
    cr_expect(!exists(".a.safetensors.tmp"));
    OK(hx_safetensors_open(path_of("a.safetensors"), &st));
    expect_all(st);
    hx_safetensors_close(&st);
    REFUSED(hx_safetensors_write(folder, tensors, N, NULL, 0, 40, produce, &last), HX_ERR_STATE, "not to be had");
    cr_expect(!exists("model-00001-of-00004.safetensors") && !exists("model.safetensors.index.json"), "no shard stays behind");
}

Test(safetensors, a_disk_that_fails_is_told_with_the_path) {
    setenv("HELIX_TEST_IO_FAIL", "3:ENOSPC", 1);
    REFUSED(hx_safetensors_write(path_of("a.safetensors"), tensors, N, NULL, 0, 0, produce, NULL), HX_ERR_IO, "a.safetensors.tmp: No space");
    cr_expect(!exists("a.safetensors") && !exists(".a.safetensors.tmp"));
}

Test(safetensors, a_list_that_makes_no_file_is_refused) {
    enum { MOST = (1LL << 59) - 1 }; /* elements of a shape */
    static const struct {
        hx_st_tensor tensors[3];
        int n;
        hx_status code;
        const char *words;
    } lists[] = {
        {{{"a", HX_F32, {1, {2}}, NULL}, {"a", HX_F32, {1, {2}}, NULL}}, 2, HX_ERR_ARG, "two tensors are called a"},
        {{{"a\xff", HX_F32, {1, {2}}, NULL}}, 1, HX_ERR_ARG, "UTF-8"},
        {{{"__metadata__", HX_F32, {1, {2}}, NULL}}, 1, HX_ERR_ARG, "__metadata__"},
        {{{"z", HX_C128, {1, {2}}, NULL}}, 1, HX_ERR_UNSUPPORTED, "c128"},
        {{{"u", HX_DTYPE_COUNT, {1, {2}}, NULL}}, 1, HX_ERR_ARG, "no element type"},
        {{{"n", HX_F32, {1, {-2}}, NULL}}, 1, HX_ERR_SHAPE, "-2"},
        {{{"o", HX_F32, {1, {INT64_MAX}}, NULL}}, 1, HX_ERR_OVERFLOW, ""},
        {{{"p", HX_F64, {1, {MOST}}, NULL}, {"q", HX_F64, {1, {MOST}}, NULL}, {"r", HX_F64, {1, {MOST}}, NULL}}, 3, HX_ERR_OVERFLOW, "up to r"},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        REFUSED(hx_safetensors_write(path_of("a.safetensors"), lists[i].tensors, lists[i].n, NULL, 0, 0, produce, NULL), lists[i].code, lists[i].words);
    cr_expect(!exists("a.safetensors"));
}

/* ---- files that nobody should trust ---- */

/* A file of that header with n bytes of elements behind it. */
static void write_header(const char *name, const char *header, size_t n) {
    static uint8_t bytes[1 << 16];
    uint64_t length = strlen(header);
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + sizeof length, header, length);
    memset(bytes + sizeof length + length, 1, n);
    write_bytes(name, bytes, sizeof length + length + n);
}

#define T(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define F32_2 T("\"F32\"", "[2]", "[0,8]")

static const struct {
    const char *header;
    size_t n_bytes; /* of elements */
    hx_status code;
    const char *words;
} headers[] = {
    {"", 0, HX_ERR_FORMAT, "does not begin with {"},
    {" {}", 0, HX_ERR_FORMAT, "does not begin with {"},
    {"[]", 0, HX_ERR_FORMAT, "does not begin with {"},
    {"{", 0, HX_ERR_FORMAT, "JSON, byte"},
    {"{} {}", 0, HX_ERR_FORMAT, "JSON, byte"},
    {"{\"a\":" F32_2 ",\"a\":" F32_2 "}", 8, HX_ERR_FORMAT, "duplicate"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, HX_ERR_FORMAT, "duplicate"},
    {"{\"a\xff\":" F32_2 "}", 8, HX_ERR_FORMAT, "unable to decode byte 0xff"},
    {"{\"a\\u0000b\":" F32_2 "}", 8, HX_ERR_FORMAT, "JSON, byte"},
    {"{\"a\":1}", 0, HX_ERR_FORMAT, "tensor a: expected an object"},
    {"{\"a\":{}}", 0, HX_ERR_FORMAT, "has 0 entries"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":1}}", 8, HX_ERR_FORMAT, "has 4 entries"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"offsets\":[0,8]}}", 8, HX_ERR_FORMAT, "data_offsets: expected [begin, end]"},
    {"{\"a\":" T("4", "[2]", "[0,8]") "}", 8, HX_ERR_FORMAT, "dtype is missing or no text"},
    {"{\"a\":" T("\"f32\"", "[2]", "[0,8]") "}", 8, HX_ERR_UNSUPPORTED, "dtype f32"},
    {"{\"a\":" T("\"F32\"", "2", "[0,8]") "}", 8, HX_ERR_FORMAT, "shape is missing or no list"},
    {"{\"a\":" T("\"F32\"", "[2.0]", "[0,8]") "}", 8, HX_ERR_FORMAT, "dim 0 of its shape"},
    {"{\"a\":" T("\"F32\"", "[1,-2]", "[0,8]") "}", 8, HX_ERR_FORMAT, "dim 1 of its shape"},
    {"{\"a\":" T("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8, HX_ERR_UNSUPPORTED, "has 9 dims"},
    {"{\"a\":" T("\"F32\"", "[4294967296,4294967296]", "[0,0]") "}", 0, HX_ERR_FORMAT, "its shape is too large"},
    {"{\"a\":" T("\"F32\"", "[576460752303423487]", "[0,0]") "}", 0, HX_ERR_FORMAT, "does not fit its 0 bytes"},
    {"{\"a\":" T("\"F32\"", "[99999999999999999999]", "[0,8]") "}", 8, HX_ERR_FORMAT, "too big integer"},
    {"{\"a\":" T("\"F32\"", "[3]", "[0,8]") "}", 8, HX_ERR_FORMAT, "F32 [3]"},
    {"{\"a\":" T("\"F32\"", "[2]", "[8,0]") "}", 8, HX_ERR_FORMAT, "[8, 0]: expected a range within the 8 bytes"},
    {"{\"a\":" T("\"F32\"", "[2]", "[4,12]") "}", 8, HX_ERR_FORMAT, "[4, 12]: expected a range within the 8 bytes"},
    {"{\"a\":" T("\"F32\"", "[2]", "[-8,0]") "}", 8, HX_ERR_FORMAT, "data_offsets: expected [begin, end]"},
    {"{\"a\":" T("\"F32\"", "[2]", "[0]") "}", 8, HX_ERR_FORMAT, "data_offsets: expected [begin, end]"},
    {"{\"a\":" T("\"F32\"", "[2]", "[0,8,8]") "}", 8, HX_ERR_FORMAT, "data_offsets: expected [begin, end]"},
    {"{\"a\":" T("\"F32\"", "[2]", "[0,9223372036854775807]") "}", 8, HX_ERR_FORMAT, "expected a range within"},
    {"{\"a\":" F32_2 "}", 9, HX_ERR_FORMAT, "end at byte 8 of 9"},
    {"{}", 1, HX_ERR_FORMAT, "end at byte 0 of 1"},
    {"{\"a\":" F32_2 ",\"b\":" T("\"F32\"", "[2]", "[9,17]") "}", 17, HX_ERR_FORMAT, "tensor b begins at byte 9"},
    {"{\"a\":" F32_2 ",\"b\":" T("\"F32\"", "[2]", "[4,12]") "}", 12, HX_ERR_FORMAT, "tensor b begins at byte 4"},
    {"{\"a\":" F32_2 ",\"b\":" F32_2 "}", 8, HX_ERR_FORMAT, "begins at byte 0"},
    {"{\"a\":" F32_2 ",\"e\":" T("\"F32\"", "[0]", "[4,4]") "}", 8, HX_ERR_FORMAT, "tensor e begins at byte 4"},
    {"{\"__metadata__\":[],\"a\":" F32_2 "}", 8, HX_ERR_FORMAT, "__metadata__: expected an object"},
    {"{\"__metadata__\":{\"k\":1},\"a\":" F32_2 "}", 8, HX_ERR_FORMAT, "__metadata__: k is no text"},
};

Test(safetensors, each_broken_header_is_told_by_file_and_tensor) {
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        hx_safetensors *st = NULL;
        write_header("bad.safetensors", headers[i].header, headers[i].n_bytes);
        REFUSED(hx_safetensors_open(file, &st), headers[i].code, headers[i].words);
        cr_assert(strstr(hx_error_message(), "bad.safetensors"), "%s", hx_error_message());
        cr_assert_null(st);
    }
}

Test(safetensors, odd_headers_that_the_format_allows_are_read) {
    static const struct {
        const char *header;
        size_t n_bytes;
        int64_t count;
    } odd[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"b\":" T("\"U8\"", "[1]", "[0,1]") ",\"a\":" T("\"F32\"", "[]", "[1,5]") "}", 5, 2}, /* unaligned, a scalar */
        {"{\"z\":" T("\"F32\"", "[0,7]", "[8,8]") ",\"a\":" F32_2 ",\"y\":" T("\"U8\"", "[0]", "[0,0]") "}", 8, 3},
        {"{ \"\\u00e9\" : " F32_2 "}", 8, 1},
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        hx_safetensors *st;
        write_header("odd.safetensors", odd[i].header, odd[i].n_bytes);
        OK(hx_safetensors_open(file, &st));
        cr_expect_eq(hx_safetensors_count(st), odd[i].count, "%s", odd[i].header);
        hx_safetensors_close(&st);
    }
}

Test(safetensors, an_element_type_that_we_have_not_is_refused_where_it_is_asked_for) {
    hx_safetensors *st;
    const hx_st_tensor *t;
    write_header("f8.safetensors", "{\"a\":" F32_2 ",\"q\":" T("\"F8_E4M3\"", "[3]", "[8,11]") "}", 11);
    OK(hx_safetensors_open(file, &st));
    OK(hx_safetensors_get(st, "a", &t));
    cr_expect_eq(hx_safetensors_find(st, "q")->dtype, HX_DTYPE_COUNT);
    REFUSED(hx_safetensors_get(st, "q", &t), HX_ERR_UNSUPPORTED, "tensor q is F8_E4M3");
    hx_safetensors_close(&st);
}

Test(safetensors, files_that_are_none_are_refused) {
    static const uint64_t lengths[] = {1, 100000001, UINT64_MAX, (uint64_t)INT64_MAX + 1};
    hx_safetensors *st = NULL;
    write_bytes("empty.safetensors", "", 0);
    REFUSED(hx_safetensors_open(file, &st), HX_ERR_FORMAT, "is empty");
    write_bytes("short.safetensors", "1234567", 7);
    REFUSED(hx_safetensors_open(file, &st), HX_ERR_FORMAT, "7 bytes");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_bytes("length.safetensors", &lengths[i], sizeof lengths[i]);
        REFUSED(hx_safetensors_open(file, &st), HX_ERR_FORMAT, "a header of");
    }
    REFUSED(hx_safetensors_open(path_of("absent.safetensors"), &st), HX_ERR_IO, "No such file");
    REFUSED(hx_safetensors_open(folder, &st), HX_ERR_IO, "neither model.safetensors nor");
    cr_assert_eq(mkfifo(path_of("pipe.safetensors"), 0600), 0);
    REFUSED(hx_safetensors_open(file, &st), HX_ERR_IO, "not a regular file");
}

/* 20 MB of JSON that would become gigabytes of nodes. */
Test(safetensors, a_header_of_too_many_values_is_refused_before_it_is_parsed) {
    const uint64_t n = 20000000;
    hx_safetensors *st = NULL;
    char *text;
    OK(hx_mem_alloc(8 + n, (void **)&text));
    memcpy(text, &n, sizeof n);
    for (uint64_t i = 0; i < n; i += 2) memcpy(text + 8 + i, i == 0 ? "{\"" : i == 2 ? "a\"" : i == 4 ? ":[" : "1,", 2);
    write_bytes("many.safetensors", text, 8 + n);
    size_t before = hx_mem_peak_bytes();
    REFUSED(hx_safetensors_open(file, &st), HX_ERR_FORMAT, "more than 4194304 values");
    cr_expect_lt(hx_mem_peak_bytes() - before, (size_t)64 << 20);
    hx_mem_free((void **)&text);
}

Test(safetensors, nesting_without_end_is_refused) {
    char text[20001];
    hx_safetensors *st = NULL;
    strcpy(text, "{\"a\":");
    memset(text + 5, '[', sizeof text - 6);
    text[sizeof text - 1] = '\0';
    write_header("deep.safetensors", text, 0);
    REFUSED(hx_safetensors_open(file, &st), HX_ERR_FORMAT, "JSON, byte");
}

static const struct {
    const char *index;
    hx_status code;
    const char *words;
} indices[] = {
    {"{}", HX_ERR_FORMAT, "weight_map is missing"},
    {"{\"weight_map\":[]}", HX_ERR_FORMAT, "weight_map is missing"},
    {"{\"weight_map\":{\"a\":1}}", HX_ERR_FORMAT, "tensor a: expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", HX_ERR_FORMAT, "tensor a: expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", HX_ERR_FORMAT, "tensor a: expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"\"}}", HX_ERR_FORMAT, "tensor a: expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", HX_ERR_IO, "absent.safetensors"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", HX_ERR_FORMAT, "tensor b is not in one.safetensors"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"again.safetensors\"}}", HX_ERR_FORMAT, "tensor a is in"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\"},\"weight_map\":{}}", HX_ERR_FORMAT, "duplicate"},
};

Test(safetensors, each_broken_index_is_told) {
    write_header("one.safetensors", "{\"a\":" F32_2 "}", 8);
    write_header("again.safetensors", "{\"a\":" F32_2 "}", 8);
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) {
        hx_safetensors *st = NULL;
        write_bytes("model.safetensors.index.json", indices[i].index, strlen(indices[i].index));
        REFUSED(hx_safetensors_open(folder, &st), indices[i].code, indices[i].words);
        cr_assert_null(st);
    }
}
