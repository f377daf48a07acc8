/* The HDF5 history: rows, growing columns, resumption, damage. */
#include <criterion/criterion.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/log/history_h5.h"
#include "tests/support/expect.h"

static char folder[256], path[300], aside[320];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-history-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/history.h5", folder);
    snprintf(aside, sizeof aside, "%s.damaged", path);
}

static void remove_folder(void) {
    unlink(path);
    unlink(aside);
    rmdir(folder);
}

TestSuite(history, .init = make_folder, .fini = remove_folder);

/* Values of a column; returns how many there are. */
static int64_t column(const char *name, double values[2048]) {
    hid_t h5 = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert_geq(h5, 0);
    hid_t dataset = H5Dopen2(h5, name, H5P_DEFAULT);
    cr_assert_geq(dataset, 0, "%s", name);
    hid_t space = H5Dget_space(dataset);
    const int64_t n = H5Sget_simple_extent_npoints(space);
    cr_assert_leq(n, 2048);
    cr_assert_geq(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(h5);
    return n;
}

static void log_steps(hx_history *h, int64_t from, int64_t to) {
    for (int64_t s = from; s <= to; s++)
        OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_STEP, .step = s, .loss = 1.0 / (double)s, .lr = 3e-4}));
}

static hx_history *reopen(int64_t last_step) {
    hx_history *h = NULL;
    OK(hx_history_open(path, last_step, &h));
    return h;
}

Test(history, steps_and_evaluations_become_columns) {
    double v[2048];
    hx_history *h = reopen(0);
    log_steps(h, 1, 1500); /* more than are kept in memory, and more than a chunk */
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 1500, .loss = NAN, .is_best = true}));
    cr_expect_eq(column("/steps/step", v), 1500);
    for (int i = 0; i < 1500; i++) cr_assert_eq(v[i], i + 1);
    cr_expect_eq(column("/steps/loss", v), 1500);
    for (int i = 0; i < 1500; i++) cr_assert_eq(v[i], 1.0 / (i + 1), "numbers must survive bit by bit");
    cr_expect_eq(column("/evals/is_best", v), 1);
    cr_expect_eq(v[0], 1);
    cr_expect(column("/evals/loss", v) == 1 && isnan(v[0]));
    hx_history_close(&h);
}

Test(history, a_resumed_run_drops_the_rows_behind_its_checkpoint) {
    double v[2048];
    hx_history *h = reopen(0);
    log_steps(h, 1, 30);
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 10}));
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 30}));
    hx_history_close(&h);
    h = reopen(20);
    log_steps(h, 21, 23);
    OK(hx_history_flush(h));
    cr_expect_eq(column("/steps/step", v), 23);
    for (int i = 0; i < 23; i++) cr_assert_eq(v[i], i + 1);
    cr_expect_eq(column("/evals/step", v), 1);
    cr_expect_eq(access(aside, F_OK), -1);
    hx_history_close(&h);
}

Test(history, a_metric_that_comes_late_gets_a_column) {
    double v[2048];
    hx_metrics *m;
    hx_history *h = reopen(0);
    OK(hx_metrics_create(&(hx_metrics_config){.n_classes = 3}, &m));
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 1}));
    hx_metrics_add_loss(m, log(2), 1);
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 2, .metrics = m}));
    OK(hx_history_event(h, &(hx_train_event){.kind = HX_EVENT_EVAL, .step = 3}));
    cr_assert_eq(column("/evals/perplexity", v), 3);
    cr_expect(isnan(v[0]) && isnan(v[2]));
    cr_expect_float_eq(v[1], 2, 1e-15);
    hx_history_close(&h);
    h = reopen(2);
    cr_expect_eq(column("/evals/perplexity", v), 2);
    hx_history_close(&h);
    hx_metrics_destroy(&m);
}

static void put(const char *text) {
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

Test(history, a_damaged_file_is_set_aside) {
    double v[2048];
    put("\211HDF\r\n\032\n and nothing else");
    hx_history *h = reopen(0);
    cr_expect_eq(access(aside, F_OK), 0);
    log_steps(h, 1, 2);
    OK(hx_history_flush(h));
    cr_expect_eq(column("/steps/step", v), 2);
    hx_history_close(&h);
}

Test(history, what_is_no_file_is_set_aside) {
    double v[2048];
    remove(path);
    cr_assert_eq(symlink("/dev/null", path), 0);
    hx_history *h = reopen(0);
    cr_expect_eq(access(aside, F_OK), 0);
    log_steps(h, 1, 2);
    OK(hx_history_flush(h));
    cr_expect_eq(column("/steps/step", v), 2);
    hx_history_close(&h);
}

/* Columns of different lengths, as a kill in the middle of an append leaves them. */
Test(history, an_append_that_was_cut_short_leaves_whole_rows) {
    double v[2048];
    hx_history *h = reopen(0);
    log_steps(h, 1, 9);
    OK(hx_history_flush(h));
    hx_history_close(&h);
    hid_t h5 = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), dataset = H5Dopen2(h5, "/steps/lr", H5P_DEFAULT);
    cr_assert_geq(H5Dset_extent(dataset, &(hsize_t){6}), 0);
    H5Dclose(dataset);
    H5Fclose(h5);
    h = reopen(100);
    log_steps(h, 7, 7);
    OK(hx_history_flush(h));
    cr_expect_eq(column("/steps/step", v), 7);
    cr_expect_eq(v[6], 7);
    cr_expect_eq(column("/steps/lr", v), 7);
    hx_history_close(&h);
}

Test(history, a_path_that_cannot_be_written_is_told) {
    hx_history *h = NULL;
    cr_assert_eq(hx_history_open("/nowhere/history.h5", 0, &h), HX_ERR_IO);
    cr_expect(strstr(hx_error_message(), "/nowhere/history.h5") != NULL, "%s", hx_error_message());
    cr_expect_null(h);
}
