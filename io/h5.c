#define _GNU_SOURCE
#include "io/h5.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t one_thread = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void hx__h5_quiet_begin(hx__h5_quiet *quiet) {
    pthread_mutex_lock(&one_thread);
    if (H5Eget_auto2(H5E_DEFAULT, &quiet->print, &quiet->data) < 0) *quiet = (hx__h5_quiet){NULL, NULL};
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void hx__h5_quiet_end(hx__h5_quiet *quiet) {
    H5Eset_auto2(H5E_DEFAULT, quiet->print, quiet->data);
    pthread_mutex_unlock(&one_thread);
}

void hx__h5_release(hid_t *id) {
    if (*id >= 0) H5Idec_ref(*id);
    *id = H5I_INVALID_HID;
}

hx_status hx__h5_dataset_place_new(hid_t parent, const char *name, hid_t type, int ndim, const int64_t *dims, hid_t *out) {
    hsize_t sizes[H5S_MAX_RANK];
    for (int d = 0; d < ndim; d++) sizes[d] = (hsize_t)dims[d];
    HX_AUTO_H5 space = ndim ? H5Screate_simple(ndim, sizes, NULL) : H5Screate(H5S_SCALAR);
    HX_AUTO_H5 create = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || create < 0 || H5Pset_obj_track_times(create, false) < 0 || H5Pset_layout(create, H5D_CONTIGUOUS) < 0 ||
        H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY) < 0 || H5Pset_fill_time(create, H5D_FILL_TIME_NEVER) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing dataset", name);
    const hid_t set = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (set < 0) return HX_H5_FAIL(HX_ERR_IO, "creating dataset", name);
    *out = set;
    return HX_OK;
}

/* The walk goes from the call inwards: the last record is the reason. */
static herr_t keep_last(unsigned n, const H5E_error2_t *e, void *data) {
    (void)n;
    if (e->desc && e->desc[0]) snprintf(data, 512, "%s", e->desc);
    return 0;
}

void hx__h5_fail(hx_status status, const char *func, const char *file, int line, const char *what,
                 const char *name) {
    char reason[512] = "no reason given";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_last, reason);
    /* Reports of system calls hide the interesting words among addresses and times. */
    static const char mark[] = "error message = '";
    char *words = strstr(reason, mark), *quote = words ? strchr(words + strlen(mark), '\'') : NULL;
    if (quote) {
        *quote = 0;
        memmove(reason, words + strlen(mark), strlen(words + strlen(mark)) + 1);
    }
    hx__fail(status, func, file, line, "%s %s: HDF5 says: %s", what, name, reason);
}
