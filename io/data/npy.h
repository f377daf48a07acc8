/* Arrays in NumPy's .npy files, one array a file.
 *
 *     HX_TRY(hx_npy_save(stream, x, "x.npy"));           // numpy.load("x.npy")
 *     HX_TRY(hx_npy_load(dev, stream, "y.npy", &y));     // numpy.save("y.npy", y)
 *
 * f32 f64 i32 i64 u8 i8 f16 bool c64 c128 are stored as float32 ... complex128, little-endian. NumPy has no bf16.
 * Format: NEP 1, "A Simple File Format for NumPy Arrays"; versions 1.0 to 3.0 are read, 1.0 is written.
 */
#ifndef HX_IO_DATA_NPY_H
#define HX_IO_DATA_NPY_H

#include "core/tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Write x in C order. Waits for the stream. The file is written beside its place and then moved there, so that
 *  `path` holds the old array or the new one whatever happens.
 *  Collective: no (local)
 *  @param x  any shape and strides, borrowed
 *  @return HX_ERR_UNSUPPORTED: bf16; HX_ERR_ARG: a path of more than 4 KiB; HX_ERR_IO with the path and the reason */
hx_status hx_npy_save(hx_stream *stream, const hx_tensor *x, const char *path);
/** Read an array of C or Fortran order. Nothing in the file is believed before it is checked.
 *  Collective: no (local)
 *  @param[out] out  row-major on `device`; caller destroys
 *  @return HX_ERR_IO: absent, unreadable, not a regular file; HX_ERR_FORMAT: no .npy, or its header and length do not
 *          fit together; HX_ERR_UNSUPPORTED: big-endian, another element type, more than 8 dims */
hx_status hx_npy_load(hx_device *device, hx_stream *stream, const char *path, hx_tensor **out);

#ifdef __cplusplus
}
#endif
#endif
