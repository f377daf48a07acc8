/* Inside of the checkpoint folder: what its sources share.
 *
 * hdf5.c     types, attributes, files and datasets       create.c    the file itself, made by rank 0
 * seal.c     the user block in front of the HDF5 data: is this a whole checkpoint? asked before HDF5 parses it
 * plan.c     which pieces of which tensor this rank writes, and how a piece lies in the file
 * sum.c      sums over elements                          stage.c     pieces that lie in the memory of a device
 * together.c what the ranks tell one another meanwhile
 * save.c     one file, written by all ranks              load.c      read and compared by all ranks
 * verify.c   each block of a file against its checksum   inspect.c   what a file contains
 * folder.c   names, generations, what a path means     publish.c   new files, links, retention
 * manager.c  a run's saves                               async.c     those that go on beside training
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

/** Open a sealed file for reading. HX_ERR_FORMAT if HDF5 cannot. */
hx_status hx__h5_open_read(const char *file, hid_t *out);
/** H5Fclose, for HX_CLEANUP. */
void hx__h5_file_release(hid_t *h5);
/** Open a dataset through hard links only, and describe it.
 *  @return HX_ERR_MISMATCH: absent; HX_ERR_FORMAT: a link elsewhere, not a plain dataset, unknown type */
hx_status hx__h5_dataset_open(hid_t h5, const char *name, hid_t *out, hx_dtype *dtype, hx_shape *shape);
/** Open a dataset through hard links only. Failures as hx__h5_dataset_open's. */
hx_status hx__h5_object_open(hid_t h5, const char *name, hid_t *out);
/** Where the n_bytes of a dataset's elements lie in its file: in one piece, inside the file.
 *  @param[out] offset  0 where there are none
 *  @return HX_ERR_FORMAT: cut up, compressed, in another file, or beyond the end */
hx_status hx__h5_dataset_place(hid_t dataset, const char *name, uint64_t n_bytes, int64_t *offset);

/* ---- seal.c ---- */

/* Bytes of the file that hold elements, which have checksums of their own. */
typedef struct hx__range {
    uint64_t offset, length;
} hx__range;

/** Bytes of the user block that a file with n ranges needs: a power of two, at least HX__CKPT_ALIGN, which HDF5 wants. */
uint64_t hx__seal_bytes(int64_t n_ranges);
/** Local. Write the seal of a finished file: its length and the checksum of all bytes outside `ranges`, which
 *  are sorted in place. @param block_bytes  of the user block that the file was created with */
hx_status hx__seal_write(const char *file, uint64_t block_bytes, hx__range *ranges, int64_t n_ranges);
/** Local. Is this a whole checkpoint of a known format? @param deep  also compare the checksum
 *  @return HX_ERR_IO: absent or unreadable; HX_ERR_FORMAT: no checkpoint, newer, cut short; HX_ERR_CORRUPT */
hx_status hx__seal_check(const char *file, bool deep, int *format);

/* ---- plan.c ---- */

#define HX__CKPT_ALIGN 4096 /* tensors of so many bytes or more begin at a multiple of it: whoever maps the file finds whole pages of elements */
#define HX__CKPT_PIECE_BYTES (16 << 20) /* bytes of a piece: what is written, read and staged at a time, and has a checksum */

/** Local. Names, types and layouts of a list. @return HX_ERR_ARG with the name */
hx_status hx__ckpt_check_items(const hx_state_list *items);
/** A number that is equal if names, types and shapes are. */
int64_t hx__ckpt_list_hash(const hx_state_list *items);
/** Where the share of one of n_replicas in n elements begins, and that of the replica before ends. */
int64_t hx__ckpt_share_begin(int64_t n, int replica, int n_replicas);
/** The part of an item that this rank writes: its share among replicas, in pieces of at most max_bytes.
 *  Offsets are relative to the item's data. Destroy with hx_layout_destroy. */
hx_status hx__ckpt_pieces(const hx_state_item *item, size_t max_bytes, hx_layout *pieces);

/* A box as runs of elements that lie together in the box and in the whole tensor. */
typedef struct hx__runs {
    const hx_box *box; /* borrowed */
    int64_t length;    /* elements of each run */
    int64_t at, strides[HX_MAX_DIMS], index[HX_MAX_DIMS];
    int row; /* dims above it are walked through */
    bool is_over;
} hx__runs;
void hx__runs_begin(const hx_shape *shape, const hx_box *box, hx__runs *out);
/** @param[out] at  flat position in the whole tensor of the next run. @return false: there are no more */
bool hx__runs_next(hx__runs *runs, int64_t *at);
/** Flat position behind the last element of a box. */
int64_t hx__box_end(const hx_shape *shape, const hx_box *box);

/* ---- sum.c ---- */

/** The sum of XXH3_64(bytes of element i, seed i) mod 2^64 over n elements from flat position `at` on. */
uint64_t hx__sum_elems(const void *elems, size_t elem_bytes, int64_t at, int64_t n);
/** The same over the elements of a box. @param data  first element of the box */
uint64_t hx__sum_box(const void *data, size_t elem_bytes, const hx_shape *shape, const hx_box *box);
/** What a tensor with this sum adds to the sum of a whole state. */
uint64_t hx__sum_state(const char *name, uint64_t hash);

/* ---- stage.c ---- */

/* Zeroed: nothing is held until an item lies where the host cannot read. Items of one device stand together. */
typedef struct hx__stage {
    hx_device *device; /* of the last such item */
    hx_stream *stream; /* of that device; owned */
    void *memory;      /* [HX__CKPT_PIECE_BYTES] that device's HX_POOL_HOST; owned */
    void *made;        /* [HX__CKPT_PIECE_BYTES] what a function makes; owned */
} hx__stage;
/** For another thread that will read: a device's memory and streams are made and freed on one only. The first item of a device
 *  decides which it is open for. */
hx_status hx__stage_open(hx__stage *stage, const hx_state_item *item);
/** Reading the item makes nothing: it lies on the host, or on the device that the stage is open for. */
bool hx__stage_is_open(const hx__stage *stage, const hx_state_item *item);
void hx__stage_close(hx__stage *stage);
/** The host cannot read the item's memory by itself. */
bool hx__stage_is_used(const hx_state_item *item);
/** n elements from local offset `at` on, for the host to read: the item's own memory, or a copy, which the next call
 *  for any item overwrites. */
hx_status hx__stage_read(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n, const void **out);
/** Memory for elements from local offset `at` on; hx__stage_write then brings n of them to the item. */
hx_status hx__stage_target(hx__stage *stage, const hx_state_item *item, int64_t at, void **out);
hx_status hx__stage_write(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n);

/* ---- save.c ---- */

typedef struct hx__async hx__async; /* async.c: a thread that writes, and the copy that it writes from */
struct hx_ckpt {
    hx_comm *comm; /* borrowed; for the thread that trains */
    MPI_Comm mpi;  /* a duplicate of comm's, for whoever writes a file; MPI_COMM_NULL: one process */
    char *folder;  /* of all generations; owned */
    int64_t generation; /* this incarnation's */
    char *config;  /* owned */
    char *kernels; /* owned; NULL: not told */
    hx_tokenizer_id tokenizer;
    int64_t keep, keep_every;
    bool can_skip;           /* async = skip */
    hx__async *async;        /* owned; NULL: saves are written at once */
};

/** Collective over ckpt->mpi, on any one thread. Write `file` whole: created, filled, sealed, fsynced. On failure it is
 *  removed. */
hx_status hx__ckpt_write(hx_ckpt *ckpt, const char *file, const hx_train_state *state, const hx_state_list *items);

/* ---- together.c: collective over ckpt->mpi, on any one thread; nothing to do in one process ---- */

/** As hx_comm_agree. */
hx_status hx__together_agree(const hx_ckpt *ckpt, hx_status mine);
/** Fails on all ranks unless `value` is rank 0's on all. @param what  for the message */
hx_status hx__together_equal(const hx_ckpt *ckpt, const char *what, int64_t value);
/** values[i] = sum over ranks, mod 2^64. */
hx_status hx__together_sum(const hx_ckpt *ckpt, uint64_t *values, int64_t n);
/** From rank 0. */
hx_status hx__together_broadcast(const hx_ckpt *ckpt, void *data, int64_t n_bytes);
/** Each rank's n rows, in the order of ranks. @param[out] all  on rank 0: room for the rows of all */
hx_status hx__together_gather(const hx_ckpt *ckpt, const void *rows, int64_t n, size_t row_bytes, void *all);

/* ---- create.c: rank 0's part of a save ---- */

/* What rank 0 puts into the file beside elements. */
typedef struct hx__outline {
    const hx_ckpt *ckpt;
    const char *file;
    const hx_train_state *state;
    const hx_state_list *items;
    const char *hosts;             /* /meta hosts */
    int64_t n_blocks, block_words; /* /meta/blocks is u64 [n_blocks, block_words] */
} hx__outline;

/** Create the file: all but elements, sums and blocks, with the bytes of all reserved.
 *  @param[out] ranges  [n_items + 1] where each tensor's elements belong, and behind them the blocks */
hx_status hx__file_create(const hx__outline *outline, hx__range *ranges);
/** Fill in the sums of the tensors [n_items], the blocks and the state's sum, and seal the file.
 *  @param ranges  as hx__file_create gave them; sorted in place */
hx_status hx__file_finish(const hx__outline *outline, const uint64_t *sums, const uint64_t *blocks, hx__range *ranges);

/* ---- verify.c ---- */

/* A row of /meta/blocks: what one rank wrote in one go. Behind the head come the box's start [ndim] and extent [ndim], and
 * zeros up to the width of the table, which is that of the tensor with the most dims. */
enum { HX__BLOCK_TENSOR, HX__BLOCK_RANK, HX__BLOCK_SUM, HX__BLOCK_HEAD };
#define HX__BLOCK_COLUMNS "byte of the file at which the tensor begins, rank, XXH3-64 of the box's bytes, start[], extent[]"

typedef bool hx__wanted(const void *self, const char *name);
/** Local. As hx_ckpt_verify, of the tensors that are wanted. @param wanted  NULL: all */
hx_status hx__ckpt_verify(const char *file, hx__wanted *wanted, const void *self, hx_ckpt_report *out);
/** The sum over a tensor's elements as it was stored, in a file of any format. */
hx_status hx__ckpt_stored_sum(hid_t dataset, const char *name, int format, const hx_shape *shape, uint64_t *out);

/* ---- folder.c ---- */

#define HX__NAME_BYTES 64

void hx__step_name(int64_t step, char name[HX__NAME_BYTES]);
/** The step of a file's name, -1 if it is none. */
int64_t hx__name_step(const char *name);
/** A name in a generation's folder; generation 0 is the folder itself. @param name  "": the folder */
hx_status hx__gen_path(const char *folder, int64_t generation, const char *name, char path[HX_PATH_BYTES]);

/* What there is in a folder. */
typedef struct hx__scan {
    int64_t *generations; /* falling; 0, the folder itself, is the last; owned */
    int64_t n_generations, n_capacity;
    hx_ckpt_files files;  /* in order, with is_left; of the marks no other */
    char link[HX__NAME_BYTES]; /* of one that is named like a generation or a file and is a symbolic link, which is not followed; "": none */
} hx__scan;
hx_status hx__scan_folder(const char *folder, hx__scan *out);
/** For whoever would take what is there for all there is: a run would start afresh beside what the link leads to. */
hx_status hx__scan_refuse_link(const char *folder, const hx__scan *scan);
void hx__scan_free(hx__scan *scan);
/** The file that a generation's link names, in the form that hx__link_target makes. False: there is no such link. */
bool hx__link_read(const char *folder, int64_t generation, const char *link, hx_ckpt_file *out);
void hx__link_target(const hx_ckpt_file *file, int64_t from_generation, char target[HX__NAME_BYTES]);
/** The best of the highest generation that has a whole checkpoint and tells which is best. False: there is none. */
bool hx__find_best(const char *folder, const hx__scan *scan, hx_ckpt_file *out);

/* ---- publish.c ---- */

/** Local, one process. Make the folder, tidy up, and make the folder of a new generation. */
hx_status hx__ckpt_prepare(const char *folder, int64_t *generation);
/** Local, one process. The finished file gets its name; links; then what is not kept is removed. */
hx_status hx__ckpt_publish(const hx_ckpt *ckpt, const char *temporary, int64_t step, bool is_best);

/* ---- manager.c ---- */

/** Collective over ckpt->mpi. Write a file and publish it. On the thread that trains, or on the one of async.c. */
hx_status hx__ckpt_write_step(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best);

/* ---- async.c ---- */

/* HELIX_TEST_COPY_MS=ms in the environment: each copy begins so much later, and finds what was changed too soon. */
hx_status hx__async_open(hx_ckpt *ckpt, hx__async **out);
/** Waits for the save that is under way. */
void hx__async_close(hx__async **async);
bool hx__async_is_busy(hx__async *async);
void hx__async_wait(hx__async *async);
/** hx_ckpt_expect, hx_ckpt_settle. */
void hx__async_expect(hx__async *async, const hx_state_list *items);
void hx__async_settle(hx__async *async);
/** Local, while nothing is under way. Make room for this rank's share of the items, and copy what is not steady. */
hx_status hx__async_prepare(hx__async *async, const hx_state_list *items);
/** Hand it to the thread, which copies the rest, and writes. @param began  of the monotonic clock */
void hx__async_start(hx__async *async, const hx_train_state *state, bool is_best, double began);
bool hx__async_ended(hx__async *async, hx_save_end *out);
double hx__seconds(void); /* of the monotonic clock */

/* ---- inspect.c ---- */

#define HX_CKPT_H5_I64 H5T_STD_I64LE
#define HX_CKPT_H5_U64 H5T_STD_U64LE
#define HX_CKPT_H5_F64 H5T_IEEE_F64LE

/** Whose ids, as attributes of /meta; nothing of what is not known. */
hx_status hx__ckpt_tokenizer_write(hid_t meta, const hx_tokenizer_id *tokenizer);
hx_status hx__ckpt_state_write(hid_t group, const hx_train_state *state);
hx_status hx__ckpt_state_read(hid_t h5, hx_train_state *out);
#endif
