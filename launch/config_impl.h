/* Reading configuration into any list of sections: what hx_config_read does for a run's, and what the commands of
 * the helix program do for a run's sections and their own.
 */
#ifndef HX_LAUNCH_CONFIG_IMPL_H
#define HX_LAUNCH_CONFIG_IMPL_H

#include "core/base/options.h"
#include "launch/compose.h"

/* Arguments that are not options, e.g. paths. Zeroed before the first use; free `items` with hx_mem_free. */
typedef struct hx_words {
    const char **items; /* [n], owned; the words are borrowed from argv */
    int n;
    int64_t capacity;
} hx_words;

/** YAML file (NULL: none), `--config` files, environment, arguments; as hx_config_read.
 *  @param words  collects what is not an option, wherever it stands; NULL: reading stops there, at *n_used */
hx_status hx__config_read(const hx_option_section *sections, int n_sections, const char *yaml_file, int argc,
                          char *const *argv, hx_words *words, int *n_used);
/** Apply YAML text. @param source  file name for messages */
hx_status hx__yaml_apply(const hx_option_section *sections, int n_sections, const char *text, size_t n_bytes,
                         const char *source);
/** Apply a YAML file: a regular one of at most 1 MiB. */
hx_status hx__yaml_apply_file(const hx_option_section *sections, int n_sections, const char *path);
/** Compare the model sections: HX_ERR_MISMATCH names the first option that differs, with both values.
 *  @param source  where `stored` comes from */
hx_status hx__config_same_model(const hx_config *stored, const hx_config *given, const char *source);
/** The same for optim.optimizer: the slots of one are not those of another, though some share their names. */
hx_status hx__config_same_optimizer(const hx_config *stored, const hx_config *given, const char *source);
/** Read the configuration stored in a checkpoint into *config, over the defaults. */
hx_status hx__config_of_checkpoint(const char *file, hx_config *config);

#endif
