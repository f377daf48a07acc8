/* What every file of io/ that calls HDF5 needs: one thread at a time, errors as our messages, handles that release themselves.
 *
 *     HX_H5_QUIET();            // for the rest of the scope HDF5 is this thread's alone, and prints nothing
 *     HX_AUTO_H5 space = H5Dget_space(dataset);                  // released when the scope ends
 *     if (space < 0) return HX_H5_FAIL(HX_ERR_IO, "dataset", name);
 */
#ifndef HX_IO_H5_H
#define HX_IO_H5_H

#include <hdf5.h>
#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The parallel HDF5 is built without locks of its own, and a checkpoint may be written beside the training: all calls of HDF5
 * in this process are made under one recursive lock. It is for metadata; elements are read and written without it. HDF5's
 * automatic error printing is switched off meanwhile. */
typedef struct hx__h5_quiet {
    H5E_auto2_t print;
    void *data;
} hx__h5_quiet;
void hx__h5_quiet_begin(hx__h5_quiet *quiet);
void hx__h5_quiet_end(hx__h5_quiet *quiet);
#define HX_H5_QUIET()                                                                                        \
    HX_CLEANUP(hx__h5_quiet_end) hx__h5_quiet quiet_;                                                        \
    hx__h5_quiet_begin(&quiet_)

/* A handle of any kind but a file, released at the end of its scope. */
void hx__h5_release(hid_t *id);
#define HX_AUTO_H5 HX_CLEANUP(hx__h5_release) hid_t

/** A dataset of which nothing is written: in one piece that is placed in the file at once, without a time, so that equal data give
 *  equal files. Where it lies H5Dget_offset tells.
 *  @param dims  [ndim]; ndim 0: a scalar */
hx_status hx__h5_dataset_place_new(hid_t parent, const char *name, hid_t type, int ndim, const int64_t *dims, hid_t *out);

/** HX_FAIL with the innermost reason of HDF5's error stack, e.g. "No space left on device". */
#define HX_H5_FAIL(status, what, name)                                                                       \
    (hx__h5_fail((status), __func__, __FILE__, __LINE__, (what), (name)), (status))
void hx__h5_fail(hx_status status, const char *func, const char *file, int line, const char *what,
                 const char *name);

#ifdef __cplusplus
}
#endif
#endif
