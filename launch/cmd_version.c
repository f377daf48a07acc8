/* helix version: what this program consists of; and JSON, as all commands print it. */
#include "launch/cli.h"

#include <hdf5.h>
#include <jansson.h>
#include <math.h>
#include <mpi.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "launch/helix.h"

json_t *hx__json_real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

hx_status hx__print_json(json_t *object) {
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    json_decref(object);
    if (!text) return HX_FAIL(HX_ERR_MEMORY, "the JSON object could not be built");
    bool is_written = puts(text) >= 0 && fflush(stdout) == 0;
    free(text);
    return is_written ? HX_OK : HX_FAIL(HX_ERR_IO, "standard output cannot be written");
}

/* Open MPI's text is one line, other implementations write a page. */
void hx__mpi_version(char *out, size_t n_bytes) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    MPI_Get_library_version(text, &n);
    snprintf(out, n_bytes, "%.*s", (int)strcspn(text, ",\n"), text);
}

hx_status hx_cmd_version(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("version"), cli, argc, argv));
    char mpi[128], hdf5[32], pcre2[64] = "", unicode[64] = ""; /* PCRE2 gives 24 bytes and less */
    unsigned major, minor, release;
    hx__mpi_version(mpi, sizeof mpi);
    if (H5get_libversion(&major, &minor, &release) < 0) return HX_FAIL(HX_ERR_INTERNAL, "HDF5 does not tell its version");
    snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, release);
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
    if (!cli->own.json) {
        printf("helix %s\n%s, HDF5 %s, libyaml %s, jansson %s, PCRE2 %s (Unicode %s)\ncheckpoint format %d, compiler %s\n", hx_version(), mpi, hdf5,
               yaml_get_version_string(), JANSSON_VERSION, pcre2, unicode, HX_CKPT_FORMAT, __VERSION__);
        return HX_OK;
    }
    return hx__print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "helix", hx_version(), "mpi", mpi, "hdf5", hdf5, "libyaml",
                                    yaml_get_version_string(), "jansson", JANSSON_VERSION, "pcre2", pcre2, "unicode", unicode, "checkpoint_format",
                                    HX_CKPT_FORMAT, "compiler", __VERSION__));
}
