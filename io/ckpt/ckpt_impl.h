/* Inside of the checkpoint folder: what its sources share.
 *
 * hdf5.c     types, attributes, files, datasets and their boxes
 * seal.c     the user block in front of the HDF5 data: is this a whole checkpoint? asked before HDF5 parses it
 * plan.c     which pieces of which tensor this rank writes, and checksums
 * stage.c    pieces that lie in the memory of a device
 * save.c     one file, written by all ranks        load.c     read and verified by all ranks
 * manager.c  the folder: latest, best, retention    inspect.c  what a file contains
 */
#ifndef HX_IO_CKPT_CKPT_IMPL_H
#define HX_IO_CKPT_CKPT_IMPL_H

#include "io/ckpt/ckpt.h"
#include "io/h5.h"

/* ---- hdf5.c ---- */

/** How a dtype is stored: little-endian, whatever the host. Numbers as HDF5 and h5py know them; bf16 as a float of 8
 *  exponent and 7 mantissa bits, bool as the enumeration {FALSE, TRUE} of i8, complex as {r, i}.
 *  -1 for a value that is no dtype. To be released by the caller: microseconds, beside a read or write of megabytes */
hid_t hx__h5_type_create(hx_dtype dtype);
/** @return HX_ERR_FORMAT if the type is none that this library writes */
hx_status hx__h5_dtype(hid_t type, const char *name, hx_dtype *out);

/* n values of one of the types above as an attribute; read checks the type and the exact number first. */
hx_status hx__h5_attr_write(hid_t object, const char *name, hid_t type, int64_t n, const void *values);
hx_status hx__h5_attr_read(hid_t object, const char *name, hid_t type, int64_t n, void *values);
hx_status hx__h5_text_write(hid_t object, const char *name, const char *text);
/** Fixed-length text of up to 64 KiB; free with hx_mem_free. */
hx_status hx__h5_text_read(hid_t object, const char *name, char **text);

/** Open a sealed file for reading, by this process alone. HX_ERR_FORMAT if HDF5 cannot. */
hx_status hx__h5_open_read(const char *file, hid_t *out);
/** Open a dataset through hard links only, and describe it.
 *  @return HX_ERR_MISMATCH: absent; HX_ERR_FORMAT: a link elsewhere, not a plain dataset, unknown type */
hx_status hx__h5_dataset_open(hid_t h5, const char *name, hid_t *out, hx_dtype *dtype, hx_shape *shape);
/** One box of a dataset. @param name  for messages. */
hx_status hx__h5_box_read(hid_t dataset, const char *name, const hx_shape *shape, const hx_box *box, hx_dtype dtype,
                          void *data);
hx_status hx__h5_box_write(hid_t dataset, const char *name, const hx_shape *shape, const hx_box *box, hx_dtype dtype,
                           const void *data);

/* ---- seal.c ---- */

/* Bytes of the file that hold elements, which have checksums of their own. */
typedef struct hx__range {
    uint64_t offset, length;
} hx__range;

/** Bytes of the user block that a file with n ranges needs: a power of two, at least 512. */
uint64_t hx__seal_bytes(int64_t n_ranges);
/** Local. Write the seal of a finished file: its length and the checksum of all bytes outside `ranges`, which
 *  are sorted in place. @param block_bytes  of the user block that the file was created with */
hx_status hx__seal_write(const char *file, uint64_t block_bytes, hx__range *ranges, int64_t n_ranges);
/** Local. Is this a whole checkpoint of a known format? @param deep  also compare the checksum
 *  @return HX_ERR_IO: absent or unreadable; HX_ERR_FORMAT: no checkpoint, newer, cut short; HX_ERR_CORRUPT */
hx_status hx__seal_check(const char *file, bool deep, int *format);

/* ---- plan.c ---- */

#define HX__CKPT_PIECE_BYTES (64 << 20) /* bytes of a piece that one HDF5 call writes or reads */

/** Local. Names, types and layouts of a list. @return HX_ERR_ARG with the name */
hx_status hx__ckpt_check_items(const hx_state_list *items);
/** A number that is equal if names, types and shapes are. */
int64_t hx__ckpt_list_hash(const hx_state_list *items);
/** The part of an item that this rank writes: its share among replicas, in pieces of at most max_elems.
 *  Offsets are relative to the item's data. Destroy with hx_layout_destroy. */
hx_status hx__ckpt_pieces(const hx_state_item *item, int64_t max_elems, hx_layout *pieces);

/** Elements that one checksum covers: at least 2^20, and so many that a tensor has at most 4096 blocks. */
int64_t hx__sum_block(int64_t n_elems);
int64_t hx__sum_n_blocks(int64_t n_elems);
/** Checksum of n elements from flat position `at` on: the sum of XXH3_64(bytes of element i, seed i) mod 2^64.
 *  A sum over elements can be taken in any order and by any number of ranks. */
uint64_t hx__sum_elems(const void *elems, size_t elem_bytes, int64_t at, int64_t n);
/** Add the elements of a box to a tensor's checksums [n_blocks]. @param data  first element of the box */
void hx__sum_box(const void *data, size_t elem_bytes, const hx_shape *shape, const hx_box *box, int64_t block,
                 uint64_t *sums);

/* ---- stage.c ---- */

#define HX__STAGE_BYTES (16 << 20) /* most that the host holds of a device's memory at a time */

/* Zeroed: nothing is held until an item lies where the host cannot read. Items of one device stand together. */
typedef struct hx__stage {
    hx_device *device; /* of the last such item */
    hx_stream *stream; /* of that device; owned */
    void *memory;      /* [HX__STAGE_BYTES] that device's HX_POOL_HOST; owned */
} hx__stage;
void hx__stage_close(hx__stage *stage);
/** Elements of a piece of that item at most: HX__CKPT_PIECE_BYTES, or as many as the stage holds. */
int64_t hx__stage_most(const hx_state_item *item);
/** n elements from local offset `at` on, for the host to read: the item's own memory, or a copy, which the next call
 *  for any item overwrites. */
hx_status hx__stage_read(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n, const void **out);
/** Memory for elements from local offset `at` on; hx__stage_write then brings n of them to the item. */
hx_status hx__stage_target(hx__stage *stage, const hx_state_item *item, int64_t at, void **out);
hx_status hx__stage_write(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n);

/* ---- save.c ---- */

struct hx_ckpt {
    hx_comm *comm; /* borrowed */
    MPI_Comm mpi;  /* a duplicate of comm's, for HDF5 and sums; MPI_COMM_NULL: one process */
    char *folder;  /* owned */
    char *config;  /* owned */
    char *kernels; /* owned; NULL: not told */
    int64_t keep;
};

/** Collective. Write `file` whole: created, filled, sealed, fsynced. On failure it is removed. */
hx_status hx__ckpt_write(hx_ckpt *ckpt, const char *file, const hx_train_state *state, const hx_state_list *items);

/* ---- inspect.c ---- */

/* Field of hx_train_state, dtype under which it is stored. A file of an older version may lack those of the second
 * list: they are zero then, which means that they are not known. */
#define HX_CKPT_STATE_FIELDS(X)                                                                              \
    X(step, I64)                                                                                             \
    X(cursor, I64)                                                                                           \
    X(seed, U64)                                                                                             \
    X(best_loss, F64)                                                                                        \
    X(n_bad_evals, I64)                                                                                      \
    X(n_skipped, I64)                                                                                        \
    X(last_loss, F64)                                                                                        \
    X(last_eval_loss, F64)                                                                                   \
    X(elapsed_s, F64)
#define HX_CKPT_STATE_ADDED(X)                                                                               \
    X(loss_scale, F64)                                                                                       \
    X(n_clean, I64)                                                                                          \
    X(data_hash, U64)                                                                                        \
    X(eval_step, I64)                                                                                        \
    X(eval_epoch, I64)

#define HX_CKPT_H5_I64 H5T_STD_I64LE
#define HX_CKPT_H5_U64 H5T_STD_U64LE
#define HX_CKPT_H5_F64 H5T_IEEE_F64LE

hx_status hx__ckpt_state_write(hid_t group, const hx_train_state *state);
hx_status hx__ckpt_state_read(hid_t h5, hx_train_state *out);
/** Local. Compare blocks [begin, end) of a dataset's checksums with its elements. HX_ERR_CORRUPT names the range. */
hx_status hx__ckpt_verify(hid_t dataset, const char *name, hx_dtype dtype, const hx_shape *shape, int64_t begin,
                          int64_t end);

#endif
