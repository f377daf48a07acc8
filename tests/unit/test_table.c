/* Tables: CSV files and HDF5 data sets as host arrays. */
#include <criterion/criterion.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/data/table.h"
#include "tests/support/expect.h"

static char path[256];
static hx_table t;

static void name_file(void) {
    snprintf(path, sizeof path, "%.200s/helix-table-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid());
}

static void remove_file(void) {
    hx_table_destroy(&t);
    unlink(path);
}

TestSuite(table, .init = name_file, .fini = remove_file);

static const char *put(const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0);
    fclose(f);
    return path;
}

static bool is(const void *data, size_t n, const float *expected) {
    return memcmp(data, expected, n * sizeof *expected) == 0;
}

Test(table, columns_of_numbers_and_classes_by_first_appearance) {
    OK(hx_table_read_csv(put("long,kind,wide\n1,b,2\n-3.5e1,\"a, \"\"x\"\"\",+4\n0.25,b,6\n"), &(hx_table_config){.target = "kind", .is_class = true}, &t));
    cr_assert(t.x.dtype == HX_F32 && t.x.shape.ndim == 2 && t.x.shape.dims[0] == 3 && t.x.shape.dims[1] == 2);
    cr_assert(is(t.x.data, 6, (float[]){1, 2, -35, 4, 0.25f, 6}));
    cr_assert(t.y.dtype == HX_I32 && t.y.shape.dims[0] == 3);
    cr_assert_arr_eq(t.y.data, ((int32_t[]){0, 1, 0}), 12);
    cr_assert_eq(t.n_classes, 2);
    cr_assert_str_eq(t.classes[0], "b");
    cr_assert_str_eq(t.classes[1], "a, \"x\"");
    cr_assert_eq(t.n_columns, 2);
    cr_assert_str_eq(t.columns[1], "wide");
}

Test(table, every_way_to_end_lines_and_to_begin_a_file) {
    static const char *const files[] = {"a,b\n1,2\n3,4\n", "a,b\r\n1,2\r\n3,4\r\n", "a,b\n1,2\n3,4", 
                                        "\xef\xbb\xbf" "a,b\n\n1,2\n\r\n\"3\",4\r\n\n", "a,\"b\nc\"\n1,2\n3, 4 \n"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        OK(hx_table_read_csv(put(files[i]), &(hx_table_config){.target = "a"}, &t));
        cr_assert(is(t.x.data, 2, (float[]){2, 4}) && is(t.y.data, 2, (float[]){1, 3}), "file %zu", i);
        hx_table_destroy(&t);
    }
}

Test(table, without_a_header_targets_have_numbers_and_f64_keeps_digits) {
    OK(hx_table_read_csv(put("0.1,7\n0.2,8\n"), &(hx_table_config){.target = "1", .has_no_header = true, .keeps_f64 = true}, &t));
    cr_assert(t.x.dtype == HX_F64 && t.y.dtype == HX_F64);
    cr_assert_eq(((const double *)t.x.data)[1], 0.2);
    cr_assert_eq(((const double *)t.y.data)[1], 8);
    hx_table_destroy(&t);
    OK(hx_table_read_csv(put("0.1,7\n0.2,8\n"), &(hx_table_config){.has_no_header = true}, &t));
    cr_assert(t.y.data == NULL && t.x.shape.dims[1] == 2);
}

Test(table, many_classes_are_told_apart) {
    FILE *f = fopen(path, "w");
    fputs("x,name\n", f);
    for (int i = 0; i < 20000; i++) fprintf(f, "%d,class %d\n", i, i % 5000);
    fclose(f);
    OK(hx_table_read_csv(path, &(hx_table_config){.target = "name", .is_class = true}, &t));
    cr_assert_eq(t.n_classes, 5000);
    for (int i = 0; i < 20000; i++) cr_assert_eq(((const int32_t *)t.y.data)[i], i % 5000);
}

Test(table, what_is_no_table_is_told_with_line_and_column) {
    static const struct {
        const char *text, *words;
        hx_table_config config;
    } cases[] = {
        {"a,b\n1,2\n3,x\n", ":3: column 2 (b): 'x' is no number", {0}},
        {"a,b\n1,\n", ":2: column 2 (b): '' is no number", {0}},
        {"a,b\n1,0x10\n", "'0x10' is no number", {0}},
        {"a,b\n1,2 3\n", "'2 3' is no number", {0}},
        {"a,b\n1,nan\n", ":2: column 2 (b): 'nan' is not finite", {0}},
        {"a,b\n\n-inf,1\n", ":3: column 1 (a): '-inf' is not finite", {0}},
        {"a,b\n1,1e39\n", "'1e39' is not finite, or beyond", {0}},
        {"a,b\n1,2\n3\n", ":3: 1 columns: expected 2", {0}},
        {"a,b\n1,2,3\n", ":2: 3 columns: expected 2", {0}},
        {"a,b\n\"1,2\n", ":2: a quote is not closed", {0}},
        {"a,b\n\"1\"2,3\n", "goes on behind its closing quote", {0}},
        {"a,b\n\"1\"\r,3\n", "carriage return", {0}},
        {"a,b\n\"1\n2\",3\n4,x\n", ":2: column 1", {0}},
        {"a,b\n", "no row of numbers", {0}},
        {"a,a\n1,2\n", "columns 1 and 2 are both called a", {.target = "a"}},
        {"a\n1\n", "one column, which is the target", {.target = "a"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) REFUSED(hx_table_read_csv(put(cases[i].text), &cases[i].config, &t), HX_ERR_FORMAT, cases[i].words);
    REFUSED(hx_table_read_csv(put("a,b\n1,2\n"), &(hx_table_config){.target = "c"}, &t), HX_ERR_CONFIG, "no column c");
    REFUSED(hx_table_read_csv(put("a,b\n1,2\n"), &(hx_table_config){.target = "7"}, &t), HX_ERR_CONFIG, "no column 7 among its 2");
    REFUSED(hx_table_read_csv(put("a,b\n1,2\n"), &(hx_table_config){.target = "1st"}, &t), HX_ERR_CONFIG, "no column 1st among its 2");
    static const char zeros[][16] = {"a,b\n\"1\"\0,2\n", "a,b\n1,\0" "2\n", "a,b\n1,\"2\0\"\n", "a,b\n1,2\0\n"};
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++) {
        FILE *f = fopen(path, "w");
        cr_assert(f && fwrite(zeros[i], 1, sizeof zeros[i], f) == sizeof zeros[i] && fclose(f) == 0);
        REFUSED(hx_table_read_csv(path, &(hx_table_config){.target = "b", .is_class = true}, &t), HX_ERR_FORMAT, ":2: a zero byte");
    }
    REFUSED(hx_table_read_csv(put(""), &(hx_table_config){0}, &t), HX_ERR_IO, "is empty");
    REFUSED(hx_table_read_csv("/dev/zero", &(hx_table_config){0}, &t), HX_ERR_IO, "is not a regular file");
    OK(hx_table_read_csv(put("a,b\n1,nan\n-inf,2\n"), &(hx_table_config){.allows_non_finite = true}, &t));
    cr_assert(isnan(((const float *)t.x.data)[1]) && isinf(((const float *)t.x.data)[2]));
}

/* ---- HDF5 ---- */

static void put_dataset(hid_t file, const char *name, hid_t type, int ndim, const hsize_t *dims, bool chunked, hid_t memory, const void *data) {
    hid_t space = H5Screate_simple(ndim, dims, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    if (chunked) H5Pset_chunk(plist, ndim, (hsize_t[]){2, 2}), H5Pset_deflate(plist, 6);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (data) cr_assert(H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(dataset), H5Pclose(plist), H5Sclose(space);
}

static void put_h5(void) {
    const hsize_t dims[] = {3, 2}, huge[] = {(hsize_t)1 << 40, (hsize_t)1 << 30};
    const double x[] = {1, 2, 3, 4, 5, 0.1}, bad[] = {1, 2, NAN};
    const int y[] = {4, 0, 2}, negative[] = {1, -1, 0};
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put_dataset(file, "x", H5T_IEEE_F64BE, 2, dims, true, H5T_NATIVE_DOUBLE, x);
    put_dataset(file, "y", H5T_STD_U8LE, 1, dims, false, H5T_NATIVE_INT, y);
    put_dataset(file, "bad", H5T_IEEE_F32LE, 1, dims, false, H5T_NATIVE_DOUBLE, bad);
    put_dataset(file, "negative", H5T_STD_I64LE, 1, dims, false, H5T_NATIVE_INT, negative);
    put_dataset(file, "huge", H5T_IEEE_F32LE, 2, huge, true, H5T_NATIVE_INT, NULL);
    H5Fclose(file);
}

Test(table, data_sets_of_any_layout_and_type_of_number) {
    put_h5();
    OK(hx_table_read_h5(path, "x", &(hx_table_config){.target = "y", .is_class = true}, &t));
    cr_assert(t.x.dtype == HX_F32 && t.x.shape.dims[0] == 3 && t.x.shape.dims[1] == 2);
    cr_assert(is(t.x.data, 6, (float[]){1, 2, 3, 4, 5, 0.1f}));
    cr_assert_arr_eq(t.y.data, ((int32_t[]){4, 0, 2}), 12);
    cr_assert_eq(t.n_classes, 5);
    hx_table_destroy(&t);
    OK(hx_table_read_h5(path, "y", &(hx_table_config){.target = "bad", .keeps_f64 = true, .allows_non_finite = true}, &t));
    cr_assert(t.x.dtype == HX_F64 && t.x.shape.dims[1] == 1 && t.y.shape.ndim == 1 && isnan(((const double *)t.y.data)[2]));
}

Test(table, data_sets_that_are_no_table_are_refused) {
    put_h5();
    REFUSED(hx_table_read_h5(path, "z", &(hx_table_config){0}, &t), HX_ERR_CONFIG, "no data set z");
    REFUSED(hx_table_read_h5(path, "bad", &(hx_table_config){0}, &t), HX_ERR_FORMAT, "row 2, column 0 is not finite");
    REFUSED(hx_table_read_h5(path, "huge", &(hx_table_config){0}, &t), HX_ERR_FORMAT, "huge claims");
    REFUSED(hx_table_read_h5(path, "x", &(hx_table_config){.target = "negative", .is_class = true}, &t), HX_ERR_FORMAT, "row 1 is -1");
    REFUSED(hx_table_read_h5(path, "x", &(hx_table_config){.target = "bad", .is_class = true}, &t), HX_ERR_FORMAT, "whole numbers");
    REFUSED(hx_table_read_h5(path, "y", &(hx_table_config){.target = "x"}, &t), HX_ERR_FORMAT, "one number for each");
    REFUSED(hx_table_read_h5(put("no hdf5"), "x", &(hx_table_config){0}, &t), HX_ERR_IO, "opening");
}
