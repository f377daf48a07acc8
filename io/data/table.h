/* Tables of numbers from CSV files and HDF5 data sets into host arrays, which hx_dataset_create takes.
 *
 *     hx_table t;
 *     HX_TRY(hx_table_read_csv("flowers.csv", &(hx_table_config){.target = "kind", .is_class = true}, &t));
 *     HX_TRY(hx_dataset_create(device, &t.x, &t.y, &sampler, &data));     // x [N,features] f32, y [N] i32
 *     hx_table_destroy(&t);                                               // after the data set
 *
 * CSV is RFC 4180's: commas, quotes around fields with commas, quotes or line ends in them, lines that end in LF or CRLF; the first line
 * names the columns. All fields are numbers, but those of a column of classes: their texts get ids in the order in which they first
 * appear. NaN and infinities are refused unless they are allowed, with their line and column.
 */
#ifndef HX_IO_DATA_TABLE_H
#define HX_IO_DATA_TABLE_H

#include "io/data/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_table_config {
    const char *target;     /* CSV: name of the column that becomes y, or its number from 0 on; HDF5: the data set. NULL: no y */
    bool is_class;          /* y is i32 class ids; else numbers like x */
    bool has_no_header;     /* CSV: the first line is numbers already */
    bool allows_non_finite; /* in x and y */
    bool keeps_f64;         /* f64 instead of f32 */
} hx_table_config;

typedef struct hx_table {
    hx_host_array x;   /* [N,features] f32 | f64; its data are owned by the table */
    hx_host_array y;   /* [N] i32 | f32 | f64; without a target its data are NULL */
    int64_t n_columns; /* names: those of x; 0: not known */
    char **columns;    /* [n_columns]; owned */
    int64_t n_classes; /* 0: y holds none */
    char **classes;    /* [n_classes] texts of a CSV file's classes; NULL: HDF5's are numbers. Owned */
} hx_table;

/** Local. Memory is some times the size of the file at most.
 *  @return HX_ERR_IO: absent, unreadable; HX_ERR_FORMAT: what is wrong, with file, line and column; HX_ERR_CONFIG: no such target */
hx_status hx_table_read_csv(const char *path, const hx_table_config *config, hx_table *out);
/** Local. Data sets of numbers: x [N] or [N,features], the target [N] or [N,1].
 *  @param x  name of the data set, e.g. "/images" */
hx_status hx_table_read_h5(const char *path, const char *x, const hx_table_config *config, hx_table *out);
void hx_table_destroy(hx_table *table);

#ifdef __cplusplus
}
#endif
#endif
