#define _GNU_SOURCE
#include "launch/plugin.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/compose.h"

#define FILE_NAME "libhelix_cuda.so"
#define PLUGIN_MESSAGE_BYTES 512

/* What became of the one attempt to open the plug-in, and whether there was one. */
static struct {
    bool is_tried;
    hx_status status;
    char message[PLUGIN_MESSAGE_BYTES];
    const hx_plugin *plugin;
} cuda;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool hx_plugin_cuda_expected(void) {
    static const char *const nodes[] = {"/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"};
    const char *path = getenv("HELIX_CUDA_PLUGIN");
    if (path && *path) return true;
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        if (access(nodes[i], F_OK) == 0) return true;
    return false;
}

/* ---- where it is ---- */

/* folder/libhelix_cuda.so, with the folder of `file` and a way from there. */
static bool is_at(const char *file, const char *way, char out[HX_PATH_BYTES]) {
    const char *slash = strrchr(file, '/');
    if (!slash) return false;
    int n = snprintf(out, HX_PATH_BYTES, "%.*s/%s" FILE_NAME, (int)(slash - file), file, way);
    return n < HX_PATH_BYTES && access(out, F_OK) == 0;
}

/* The file that holds this function: the program, or libhelix.so. */
static const char *own_file(void) {
    Dl_info info;
    return dladdr((void *)&hx_plugin_cuda_expected, &info) && info.dli_fname ? info.dli_fname : "";
}

/* A path to open; the bare name where none of the known places has it, for the system to look for. */
static void find_file(char out[HX_PATH_BYTES]) {
    const char *wanted = getenv("HELIX_CUDA_PLUGIN");
    char program[HX_PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    if (wanted && *wanted)
        snprintf(out, HX_PATH_BYTES, "%s", wanted);
    else if (!is_at(program, "", out) && !is_at(own_file(), "", out) && !is_at(program, HX_LIBDIR_FROM_PROGRAM "/", out) &&
             !is_at(HX_LIBDIR "/", "", out))
        snprintf(out, HX_PATH_BYTES, FILE_NAME);
}

/* ---- opening ---- */

/* A plug-in takes the functions of libhelix that it calls from the global scope. A program's are there; libhelix.so is not
 * where it was itself opened with RTLD_LOCAL, as Python does. */
static void promote_libhelix(void) {
    void *self = dlopen(own_file(), RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
    if (self) dlclose(self); /* the count that this call added; the scope stays */
}

/* dlerror's text up to the first line break. */
static hx_status loader_failed(const char *file) {
    char text[PLUGIN_MESSAGE_BYTES / 2];
    const char *why = dlerror();
    snprintf(text, sizeof text, "%s", why ? why : "the loader does not say why");
    text[strcspn(text, "\n")] = '\0';
    if (!strchr(file, '/'))
        return HX_FAIL(HX_ERR_DEVICE, "device cuda: no " FILE_NAME " beside the program, in " HX_LIBDIR " or where the system looks; "
                       "HELIX_CUDA_PLUGIN names another place (%s)", text);
    return HX_FAIL(HX_ERR_DEVICE, "device cuda: %s", text);
}

static hx_status open_file(const hx_plugin **out) {
    char file[HX_PATH_BYTES];
    find_file(file);
    promote_libhelix();
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) return loader_failed(file);
    hx_plugin_entry *get;
    *(void **)&get = dlsym(library, HX_PLUGIN_ENTRY);
    if (!get) return HX_FAIL(HX_ERR_DEVICE, "device cuda: %.256s has no " HX_PLUGIN_ENTRY ": it is no plug-in of Helix", file);
    const hx_plugin *plugin = get(HX_PLUGIN_ABI);
    if (!plugin) return HX_FAIL(HX_ERR_DEVICE, "device cuda: %.256s was built for another version of Helix", file);
    HX_TRY(hx_backend_register(plugin->backend));
    *out = plugin;
    return HX_OK;
}

hx_status hx_plugin_cuda(const hx_plugin **out) {
    pthread_mutex_lock(&lock);
    if (!cuda.is_tried) {
        cuda.is_tried = true;
        cuda.status = open_file(&cuda.plugin);
        if (cuda.status != HX_OK) snprintf(cuda.message, sizeof cuda.message, "%s", hx_error_message());
    }
    pthread_mutex_unlock(&lock);
    if (cuda.status != HX_OK) return hx_error_adopt(cuda.status, cuda.message);
    *out = cuda.plugin;
    return HX_OK;
}
