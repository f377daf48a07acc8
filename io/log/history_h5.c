#include "io/log/history_h5.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt.h"
#include "io/h5.h"

#define CHUNK_ROWS    1024
#define ROWS_MOST     512 /* kept in memory */
#define COLUMNS_MOST  24
#define FLUSH_SECONDS 1.0

/* ---- what of an event becomes a column ---- */

typedef struct column {
    char name[32];
    bool is_count; /* stored as i64; else f64 */
    double (*value)(const hx_train_event *e); /* NULL: a metric, found by its name */
} column;

/* field, is_count */
#define STEP_FIELDS(X)                                                                                       \
    X(step, true) X(cursor, true) X(epoch, false) X(loss, false) X(count, false) X(lr, false) X(grad_norm, false) \
    X(tokens_per_s, false) X(comm_share, false) X(data_share, false) \
    X(flops_share, false) X(loss_scale, false) X(memory_bytes, true) \
    X(seconds, false) X(elapsed_s, false)
#define EVAL_FIELDS(X)                                                                                       \
    X(step, true) X(cursor, true) X(epoch, false) X(loss, false) X(count, false) X(is_best, true) X(seconds, false) \
    X(elapsed_s, false)

#define SAVE_FIELDS(X)                                                                                       \
    X(step, true) X(is_best, true) X(is_failed, true) X(is_beside, true) X(stall_s, false) X(seconds, false) X(step_s, false) \
    X(step_s_before, false) X(elapsed_s, false)

#define GET_(field, is_count)                                                                                \
    static double get_##field(const hx_train_event *e) { return (double)e->field; }
STEP_FIELDS(GET_)
GET_(step_s, false)
GET_(step_s_before, false)
static double get_is_best(const hx_train_event *e) { return e->is_best; }
static double get_is_failed(const hx_train_event *e) { return e->text != NULL; }
static double get_is_beside(const hx_train_event *e) { return e->kind == HX_EVENT_SAVE_END; }
static double get_stall_s(const hx_train_event *e) { return e->kind == HX_EVENT_SAVE ? e->seconds : e->stall_s; }
#undef GET_

#define COLUMN_(field, is_count) {#field, is_count, get_##field},
static const column step_columns[] = {STEP_FIELDS(COLUMN_)};
static const column eval_columns[] = {EVAL_FIELDS(COLUMN_)};
static const column save_columns[] = {SAVE_FIELDS(COLUMN_)};
#undef COLUMN_

/* One group of the file, and its rows that are not there yet. Its first column is `step`. */
typedef struct table {
    const char *group; /* "/steps" */
    column columns[COLUMNS_MOST];
    int n_columns;
    int64_t n_stored, n_rows;
    double rows[ROWS_MOST][COLUMNS_MOST];
} table;

enum { STEPS, EVALS, SAVES, N_TABLES };

struct hx_history {
    char *path; /* owned */
    table tables[N_TABLES];
    double flushed_at;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void table_begin(table *t, const char *group, const column *columns, size_t n_columns) {
    t->group = group;
    t->n_columns = (int)n_columns;
    memcpy(t->columns, columns, n_columns * sizeof *columns);
}

/* ---- columns in the file ---- */

/* Readers may have the file open meanwhile: it is not locked. */
static hx_status open_file(const char *path, bool is_new, hid_t *out) {
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to open", path);
    *out = is_new ? H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access) : H5Fopen(path, H5F_ACC_RDWR, access);
    return *out < 0 ? HX_H5_FAIL(HX_ERR_IO, "opening", path) : HX_OK;
}

/* What has not been written before the close fails there. */
static hx_status close_file(const char *path, hid_t *h5, hx_status status) {
    const hid_t file = *h5;
    *h5 = H5I_INVALID_HID;
    if (file >= 0 && H5Fclose(file) < 0 && status == HX_OK) return HX_H5_FAIL(HX_ERR_IO, "closing", path);
    return status;
}

/* A column that came late, e.g. a new metric, says NaN (counts: 0) for the rows before it. */
static hx_status create_column(hid_t group, const column *c, int64_t n_rows, hid_t *out) {
    const double nothing = NAN;
    HX_AUTO_H5 space = H5Screate_simple(1, &(hsize_t){(hsize_t)n_rows}, &(hsize_t){(hsize_t)H5S_UNLIMITED});
    HX_AUTO_H5 plist = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || plist < 0 || H5Pset_chunk(plist, 1, &(hsize_t){CHUNK_ROWS}) < 0 ||
        (!c->is_count && H5Pset_fill_value(plist, H5T_NATIVE_DOUBLE, &nothing) < 0))
        return HX_H5_FAIL(HX_ERR_IO, "column", c->name);
    *out = H5Dcreate2(group, c->name, c->is_count ? H5T_STD_I64LE : H5T_IEEE_F64LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    return *out < 0 ? HX_H5_FAIL(HX_ERR_IO, "creating column", c->name) : HX_OK;
}

static hx_status column_rows(hid_t dataset, const char *name, int64_t *n) {
    HX_AUTO_H5 space = H5Dget_space(dataset);
    hsize_t rows, most;
    if (space < 0 || H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_dims(space, &rows, &most) < 0 ||
        most != (hsize_t)H5S_UNLIMITED || rows > INT64_MAX)
        return HX_FAIL(HX_ERR_FORMAT, "column %s cannot grow", name);
    *n = (int64_t)rows;
    return HX_OK;
}

static hx_status open_column(hid_t group, const column *c, int64_t n_rows, hid_t *out) {
    if (H5Lexists(group, c->name, H5P_DEFAULT) <= 0) return create_column(group, c, n_rows, out);
    *out = H5Dopen2(group, c->name, H5P_DEFAULT);
    return *out < 0 ? HX_H5_FAIL(HX_ERR_IO, "opening column", c->name) : HX_OK;
}

/* All rows in memory to the places behind what is stored: doing it again after a failure does no harm. */
static hx_status append_column(const table *t, hid_t group, int i) {
    double values[ROWS_MOST];
    const hsize_t n = (hsize_t)t->n_rows, at = (hsize_t)t->n_stored;
    HX_AUTO_H5 dataset = H5I_INVALID_HID;
    HX_TRY(open_column(group, &t->columns[i], t->n_stored, &dataset));
    if (H5Dset_extent(dataset, &(hsize_t){at + n}) < 0) return HX_H5_FAIL(HX_ERR_IO, "growing column", t->columns[i].name);
    HX_AUTO_H5 in_file = H5Dget_space(dataset);
    HX_AUTO_H5 in_memory = H5Screate_simple(1, &n, NULL);
    for (int64_t r = 0; r < t->n_rows; r++) values[r] = t->rows[r][i];
    if (in_file < 0 || in_memory < 0 || H5Sselect_hyperslab(in_file, H5S_SELECT_SET, &at, NULL, &n, NULL) < 0 ||
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, in_memory, in_file, H5P_DEFAULT, values) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "writing column", t->columns[i].name);
    return HX_OK;
}

static hx_status open_group(hid_t h5, const char *name, hid_t *out) {
    const bool is_there = H5Lexists(h5, name, H5P_DEFAULT) > 0;
    *out = is_there ? H5Gopen2(h5, name, H5P_DEFAULT) : H5Gcreate2(h5, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    return *out < 0 ? HX_H5_FAIL(HX_ERR_IO, "group", name) : HX_OK;
}

static hx_status append_table(const table *t, hid_t h5) {
    HX_AUTO_H5 group = H5I_INVALID_HID;
    if (t->n_rows == 0) return HX_OK;
    HX_TRY(open_group(h5, t->group, &group));
    for (int i = 0; i < t->n_columns; i++) HX_TRY(append_column(t, group, i));
    return HX_OK;
}

hx_status hx_history_flush(hx_history *h) {
    HX_H5_QUIET();
    hid_t h5 = H5I_INVALID_HID;
    hx_status status = HX_OK;
    if (h->tables[STEPS].n_rows + h->tables[EVALS].n_rows + h->tables[SAVES].n_rows == 0) return HX_OK;
    h->flushed_at = now_s();
    HX_TRY(open_file(h->path, access(h->path, F_OK) != 0, &h5));
    for (int i = 0; i < N_TABLES && status == HX_OK; i++) status = append_table(&h->tables[i], h5);
    HX_TRY(close_file(h->path, &h5, status));
    for (int i = 0; i < N_TABLES; i++) {
        h->tables[i].n_stored += h->tables[i].n_rows;
        h->tables[i].n_rows = 0;
    }
    return HX_OK;
}

/* ---- opening ---- */

/* Rows of `step` up to last_step: they stand in order, whoever wrote them last. */
static hx_status count_kept(hid_t dataset, int64_t n, int64_t last_step, int64_t *kept) {
    int64_t *steps;
    HX_TRY(hx_mem_alloc_array(n, sizeof *steps, (void **)&steps));
    const bool is_read = n == 0 || H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, steps) >= 0;
    for (*kept = 0; is_read && *kept < n && steps[*kept] <= last_step;) ++*kept;
    hx_mem_free((void **)&steps);
    return is_read ? HX_OK : HX_H5_FAIL(HX_ERR_IO, "reading column", "step");
}

/* Every column of a group, also those of metrics that are no longer counted. */
typedef struct visit {
    int64_t n_rows; /* of the shortest column; what all are cut to */
    bool cuts;
    hx_status status;
} visit;

static herr_t visit_column(hid_t group, const char *name, const H5L_info_t *info, void *arg) {
    visit *v = arg;
    int64_t n = 0;
    (void)info;
    HX_AUTO_H5 dataset = H5Dopen2(group, name, H5P_DEFAULT);
    if (dataset < 0)
        v->status = HX_H5_FAIL(HX_ERR_IO, "opening column", name);
    else
        v->status = column_rows(dataset, name, &n);
    if (v->status == HX_OK && v->cuts && H5Dset_extent(dataset, &(hsize_t){(hsize_t)v->n_rows}) < 0)
        v->status = HX_H5_FAIL(HX_ERR_IO, "cutting column", name);
    if (!v->cuts && n < v->n_rows) v->n_rows = n;
    return v->status == HX_OK ? 0 : -1;
}

/* A kill may have left columns of different lengths: rows that are not whole go, like those behind the checkpoint. */
static hx_status cut_table(table *t, hid_t h5, int64_t last_step) {
    visit v = {.n_rows = INT64_MAX};
    HX_AUTO_H5 step = H5I_INVALID_HID;
    t->n_stored = 0;
    if (H5Lexists(h5, t->group, H5P_DEFAULT) <= 0) return HX_OK;
    HX_AUTO_H5 group = H5Gopen2(h5, t->group, H5P_DEFAULT);
    if (group < 0) return HX_H5_FAIL(HX_ERR_IO, "group", t->group);
    H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_column, &v);
    HX_TRY(v.status);
    if (v.n_rows == INT64_MAX) return HX_OK;
    HX_TRY(open_column(group, &t->columns[0], v.n_rows, &step));
    int64_t n_steps, kept;
    HX_TRY(column_rows(step, "step", &n_steps));
    HX_TRY(count_kept(step, n_steps, last_step, &kept));
    if (kept < v.n_rows) v.n_rows = kept;
    v.cuts = true;
    H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_column, &v);
    t->n_stored = v.n_rows;
    return v.status;
}

static hx_status cut_file(hx_history *h, int64_t last_step) {
    HX_H5_QUIET();
    hid_t h5 = H5I_INVALID_HID;
    hx_status status = open_file(h->path, false, &h5);
    for (int i = 0; i < N_TABLES && status == HX_OK; i++) status = cut_table(&h->tables[i], h5, last_step);
    return close_file(h->path, &h5, status);
}

static hx_status create_file(hx_history *h) {
    HX_H5_QUIET();
    hid_t h5 = H5I_INVALID_HID;
    for (int i = 0; i < N_TABLES; i++) h->tables[i].n_stored = 0;
    HX_TRY(open_file(h->path, true, &h5));
    return close_file(h->path, &h5, HX_OK);
}

/* HDF5 cannot close what it opened of a device, and breaks down at the end of the process. */
static bool is_regular(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static hx_status set_aside(const char *path) {
    char aside[HX_PATH_BYTES];
    if ((size_t)snprintf(aside, sizeof aside, "%s.damaged", path) >= sizeof aside)
        return HX_FAIL(HX_ERR_CONFIG, "path %.64s...: longer than %d bytes", path, HX_PATH_BYTES - 1);
    if (rename(path, aside) != 0) return HX_FAIL(HX_ERR_IO, "renaming %s: %s", path, strerror(errno));
    return HX_OK;
}

hx_status hx_history_open(const char *path, int64_t last_step, hx_history **out) {
    HX_CLEANUP(hx_history_close) hx_history *h = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *h, (void **)&h));
    HX_TRY(hx_mem_strdup(path, &h->path));
    table_begin(&h->tables[STEPS], "/steps", step_columns, sizeof step_columns / sizeof *step_columns);
    table_begin(&h->tables[EVALS], "/evals", eval_columns, sizeof eval_columns / sizeof *eval_columns);
    table_begin(&h->tables[SAVES], "/saves", save_columns, sizeof save_columns / sizeof *save_columns);
    h->flushed_at = now_s();
    if (access(path, F_OK) != 0) {
        HX_TRY(create_file(h));
    } else if (!is_regular(path) || cut_file(h, last_step) != HX_OK) {
        HX_TRY(set_aside(path));
        HX_TRY(create_file(h));
    }
    *out = h;
    h = NULL; /* handed on */
    return HX_OK;
}

void hx_history_close(hx_history **history) {
    if (!history || !*history) return;
    hx_mem_free((void **)&(*history)->path);
    hx_mem_free((void **)history);
}

/* ---- events ---- */

static int find_column(const table *t, const char *name) {
    for (int i = 0; i < t->n_columns; i++)
        if (strcmp(t->columns[i].name, name) == 0) return i;
    return -1;
}

/* Metrics get their columns when they are first seen; beyond COLUMNS_MOST they are left to the JSON lines. */
static void put_metrics(table *t, const hx_metrics *metrics, double *row) {
    for (int k = 0; k < hx_metrics_n_values(metrics); k++) {
        const char *name;
        const double value = hx_metrics_value(metrics, k, &name);
        int i = find_column(t, name);
        if (i < 0 && t->n_columns < COLUMNS_MOST) {
            i = t->n_columns++;
            t->columns[i] = (column){.is_count = false};
            snprintf(t->columns[i].name, sizeof t->columns[i].name, "%s", name);
            for (int64_t r = 0; r < t->n_rows; r++) t->rows[r][i] = NAN;
        }
        if (i >= 0) row[i] = value;
    }
}

static void add_row(table *t, const hx_train_event *e) {
    if (t->n_rows == ROWS_MOST) { /* an append keeps failing: the oldest row makes room */
        memmove(t->rows[0], t->rows[1], (ROWS_MOST - 1) * sizeof t->rows[0]);
        t->n_rows--;
    }
    double *row = t->rows[t->n_rows];
    for (int i = 0; i < COLUMNS_MOST; i++) row[i] = NAN;
    for (int i = 0; i < t->n_columns; i++)
        if (t->columns[i].value != NULL) row[i] = t->columns[i].value(e);
    if (e->metrics != NULL) put_metrics(t, e->metrics, row);
    t->n_rows++;
}

/* A save that was begun has its row when it has ended. */
static bool is_save(const hx_train_event *e) {
    return e->kind == HX_EVENT_SAVE_END || (e->kind == HX_EVENT_SAVE && (e->save == HX_SAVE_WRITTEN || (e->save == HX_SAVE_BEGUN && e->text != NULL)));
}

hx_status hx_history_event(hx_history *h, const hx_train_event *e) {
    if (e->kind == HX_EVENT_STEP) add_row(&h->tables[STEPS], e);
    if (e->kind == HX_EVENT_EVAL) add_row(&h->tables[EVALS], e);
    if (is_save(e)) add_row(&h->tables[SAVES], e);
    if (e->kind == HX_EVENT_STEP && h->tables[STEPS].n_rows < ROWS_MOST && now_s() - h->flushed_at < FLUSH_SECONDS) return HX_OK;
    return hx_history_flush(h);
}
