#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/ckpt/hf_impl.h"
#include "io/fs.h"
#include "io/ckpt/safetensors_impl.h"

/* ---- tables ---- */

typedef enum kind { INT, REAL, BOOL } kind;

/* A key that is a field of hx_gpt_config. */
typedef struct field {
    const char *key;
    kind kind;
    size_t offset;
    double absent; /* the library's own default; NAN: the key must be there */
} field;

#define OF(name) offsetof(hx_gpt_config, name)
static const field gpt2_fields[] = {
    {"vocab_size", INT, OF(vocab), NAN},          {"n_positions", INT, OF(ctx), NAN},     {"n_embd", INT, OF(dim), NAN},
    {"n_layer", INT, OF(layers), NAN},            {"n_head", INT, OF(heads), NAN},        {"n_inner", INT, OF(mlp_dim), 0},
    {"layer_norm_epsilon", REAL, OF(norm_eps), 1e-5}, {"resid_pdrop", REAL, OF(dropout), 0.1}, {"tie_word_embeddings", BOOL, OF(tied), 1},
};
static const field llama_fields[] = {
    {"vocab_size", INT, OF(vocab), NAN},
    {"max_position_embeddings", INT, OF(ctx), NAN},
    {"hidden_size", INT, OF(dim), NAN},
    {"num_hidden_layers", INT, OF(layers), NAN},
    {"num_attention_heads", INT, OF(heads), NAN},
    {"num_key_value_heads", INT, OF(kv_heads), 0},
    {"intermediate_size", INT, OF(mlp_dim), NAN},
    {"rms_norm_eps", REAL, OF(norm_eps), 1e-6},
    {"rope_theta", REAL, OF(rope_base), 10000},
    {"tie_word_embeddings", BOOL, OF(tied), 0},
};
#undef OF

/* A key that has one value that Helix can compute; absent and null mean that value too. Written as listed. */
typedef struct fixed {
    const char *key, *json;
} fixed;

static const fixed gpt2_fixed[] = {
    {"scale_attn_weights", "true"},
    {"scale_attn_by_inverse_layer_idx", "false"},
    {"add_cross_attention", "false"},
    {"quantization_config", "null"},
};
static const fixed llama_fixed[] = {
    {"hidden_act", "\"silu\""}, {"attention_bias", "false"}, {"mlp_bias", "false"}, {"quantization_config", "null"},
};

/* Options that say what a family is, as their texts. */
typedef struct trait {
    const char *option, *value;
} trait;

static const trait gpt2_traits[] = {{"norm", "layernorm"}, {"positions", "learned"}, {"mlp", "plain"}, {"bias", "true"}, {NULL, NULL}};
static const trait llama_traits[] = {{"norm", "rmsnorm"}, {"positions", "rotary"}, {"mlp", "swiglu"}, {"bias", "false"}, {NULL, NULL}};

#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))
static const struct {
    const char *model_type, *architecture;
    const field *fields;
    const fixed *fixed;
    const trait *traits;
    int n_fields, n_fixed;
} families[] = {
    [HX__HF_GPT2] = {"gpt2", "GPT2LMHeadModel", gpt2_fields, gpt2_fixed, gpt2_traits, COUNT(gpt2_fields), COUNT(gpt2_fixed)},
    [HX__HF_LLAMA] = {"llama", "LlamaForCausalLM", llama_fields, llama_fixed, llama_traits, COUNT(llama_fields), COUNT(llama_fixed)},
};
#define N_FAMILIES COUNT(families)

/* hx_gpt_config.activation in their words; the first name of each is the one written. */
static const struct {
    const char *name;
    int activation;
} activations[] = {{"gelu_new", 0}, {"gelu", 1}, {"silu", 2}, {"relu", 3}, {"gelu_pytorch_tanh", 0}, {"swish", 2}};

/* by hx_gpt_config.dtype */
static const char *const torch_dtypes[] = {"float32", "float64", "bfloat16", "float16"};

/* ---- families ---- */

static hx_option_section section_of(hx_gpt_config *config) {
    return (hx_option_section){.prefix = "", .options = hx_gpt_options, .n_options = hx_gpt_n_options, .config = config};
}

/* The first option in which a configuration is none of the family; NULL: it is one. */
static const trait *foreign_trait(const hx_gpt_config *config, hx__hf_family family, char value[HX_OPTION_TEXT]) {
    hx_gpt_config copy = *config;
    hx_option_section section = section_of(&copy);
    for (const trait *t = families[family].traits; t->option != NULL; t++) {
        hx_option_format(hx_options_find(&section, 1, t->option, NULL), config, value, HX_OPTION_TEXT);
        if (strcmp(value, t->value) != 0) return t;
    }
    return NULL;
}

hx_status hx__hf_family_of(const hx_gpt_config *config, hx__hf_family *out) {
    char value[HX_OPTION_TEXT];
    const hx__hf_family family = config->norm == 1 ? HX__HF_LLAMA : HX__HF_GPT2;
    HX_TRY(hx_gpt_config_check(config));
    const trait *t = foreign_trait(config, family, value);
    if (t != NULL)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "a model with %s = %s and model.%s = %s belongs neither to GPT-2's family nor to LLaMA's: "
                       "expected %s = %s", families[family].traits[0].option, families[family].traits[0].value, t->option, value, t->option, t->value);
    if (family == HX__HF_GPT2 && config->kv_heads > 0 && config->kv_heads != config->heads)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "a model of GPT-2's family with model.kv_heads = %lld and heads = %lld: expected as many",
                       (long long)config->kv_heads, (long long)config->heads);
    *out = family;
    return HX_OK;
}

static hx_status apply_traits(hx__hf_family family, hx_gpt_config *config) {
    hx_option_section section = section_of(config);
    for (const trait *t = families[family].traits; t->option != NULL; t++)
        HX_TRY(hx_options_set(&section, 1, t->option, t->value, families[family].model_type));
    return HX_OK;
}

/* ---- reading ---- */

/* A value as JSON in a message. */
static const char *value_text(const json_t *json, char out[200]) {
    char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, 200, "%.190s", text == NULL ? "?" : text);
    free(text);
    return out;
}

static bool is_absent(const json_t *json) { return json == NULL || json_is_null(json); }

static hx_status read_field(const char *path, const json_t *json, const field *f, hx_gpt_config *config) {
    static const char *const expected[] = {[INT] = "a whole number >= 1", [REAL] = "a number", [BOOL] = "true or false"};
    const json_t *value = json_object_get(json, f->key);
    char text[200];
    void *at = (char *)config + f->offset;
    const bool fits = f->kind == INT ? json_integer_value(value) >= 1 : f->kind == REAL ? json_is_number(value) : json_is_boolean(value);
    if (is_absent(value) && isnan(f->absent)) return HX_FAIL(HX_ERR_FORMAT, "%s: %s is missing", path, f->key);
    if (!is_absent(value) && !fits)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s = %s: expected %s", path, f->key, value_text(value, text), expected[f->kind]);
    if (f->kind == INT) *(int64_t *)at = is_absent(value) ? (int64_t)f->absent : json_integer_value(value);
    if (f->kind == REAL) *(double *)at = is_absent(value) ? f->absent : json_number_value(value);
    if (f->kind == BOOL) *(bool *)at = is_absent(value) ? f->absent != 0 : json_is_true(value);
    return HX_OK;
}

static hx_status check_fixed(const char *path, const json_t *json, const fixed *f) {
    const json_t *value = json_object_get(json, f->key);
    char *text = is_absent(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT), shown[200];
    const bool fits = is_absent(value) || (text != NULL && strcmp(text, f->json) == 0);
    free(text);
    if (fits) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: %s = %s: Helix has only %s", path, f->key, value_text(value, shown), f->json);
}

static hx_status read_activation(const char *path, const json_t *json, hx_gpt_config *config) {
    const json_t *value = json_object_get(json, "activation_function");
    const char *name = is_absent(value) ? "gelu_new" : json_string_value(value);
    char shown[200];
    for (int i = 0; name != NULL && i < COUNT(activations); i++) {
        if (strcmp(name, activations[i].name) != 0) continue;
        config->activation = activations[i].activation;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: activation_function = %s: expected gelu_new, gelu, silu or relu", path, value_text(value, shown));
}

/* Frequencies are base^(-2i/D) or nothing that Helix has. Newer files keep the base in rope_parameters. */
static hx_status read_rope(const char *path, const json_t *json, hx_gpt_config *config) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    static const field base = {"rope_theta", REAL, offsetof(hx_gpt_config, rope_base), NAN};
    char shown[200];
    for (int i = 0; i < COUNT(keys); i++) {
        const json_t *value = json_object_get(json, keys[i]), *type = json_object_get(value, "rope_type");
        if (is_absent(value)) continue;
        if (!json_is_string(type) || strcmp(json_string_value(type), "default") != 0)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: %s = %s: Helix has only rotary positions of rope_type default", path, keys[i],
                           value_text(value, shown));
        if (json_object_get(value, base.key) != NULL) HX_TRY(read_field(path, value, &base, config));
    }
    return HX_OK;
}

static hx_status read_llama(const char *path, const json_t *json, hx_gpt_config *config) {
    const json_t *head_dim = json_object_get(json, "head_dim");
    char shown[200];
    HX_TRY(read_rope(path, json, config));
    if (!is_absent(head_dim) && config->heads > 0 && json_integer_value(head_dim) != config->dim / config->heads)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: head_dim = %s: Helix has only hidden_size / num_attention_heads = %lld", path,
                       value_text(head_dim, shown), (long long)(config->dim / config->heads));
    if (config->kv_heads == config->heads) config->kv_heads = 0; /* ours for the same */
    return HX_OK;
}

static hx_status find_family(const char *path, const json_t *json, hx__hf_family *out) {
    const json_t *value = json_object_get(json, "model_type");
    char shown[200];
    for (int i = 0; json_is_string(value) && i < N_FAMILIES; i++) {
        if (strcmp(json_string_value(value), families[i].model_type) != 0) continue;
        *out = (hx__hf_family)i;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: model_type = %s: expected \"gpt2\" or \"llama\"", path, value ? value_text(value, shown) : "(missing)");
}

/* Ranges and what must fit together, told with the file's name. */
static hx_status check(const char *path, const hx_gpt_config *config) {
    char message[512];
    hx_status status = hx_gpt_config_check(config);
    if (status == HX_OK) return HX_OK;
    snprintf(message, sizeof message, "%s", hx_error_message());
    return HX_FAIL(HX_ERR_FORMAT, "%s makes no model: %s", path, message);
}

static hx_status read_config(const char *path, const json_t *json, hx_gpt_config *config) {
    hx__hf_family family;
    HX_TRY(find_family(path, json, &family));
    HX_TRY(apply_traits(family, config));
    for (int i = 0; i < families[family].n_fixed; i++) HX_TRY(check_fixed(path, json, &families[family].fixed[i]));
    for (int i = 0; i < families[family].n_fields; i++) HX_TRY(read_field(path, json, &families[family].fields[i], config));
    HX_TRY(family == HX__HF_GPT2 ? read_activation(path, json, config) : read_llama(path, json, config));
    return check(path, config);
}

static void json_release(json_t **json) { json_decref(*json); }
#define AUTO_JSON HX_CLEANUP(json_release) json_t

hx_status hx_hf_config_read(const char *path, hx_gpt_config *out) {
    AUTO_JSON *json = NULL;
    hx_gpt_config config = HX_GPT_DEFAULT;
    HX_TRY(hx__st_json_file(path, &json));
    HX_TRY(read_config(path, json, &config));
    *out = config;
    return HX_OK;
}

/* Ours is one probability, in the places of resid_pdrop and embd_pdrop. */
hx_status hx_hf_config_lost(const char *path, const hx_gpt_config *config, char text[HX_HF_LOST_TEXT]) {
    static const struct {
        const char *model_type, *key;
        bool has_place;
        double absent;
    } dropouts[] = {{"gpt2", "embd_pdrop", true, 0.1}, {"gpt2", "attn_pdrop", false, 0.1}, {"llama", "attention_dropout", false, 0}};
    AUTO_JSON *json = NULL;
    int n = 0;
    HX_TRY(hx__st_json_file(path, &json));
    const char *type = json_string_value(json_object_get(json, "model_type"));
    text[0] = '\0';
    for (int i = 0; type && i < COUNT(dropouts); i++) {
        const json_t *value = json_object_get(json, dropouts[i].key);
        const double p = json_is_number(value) ? json_number_value(value) : dropouts[i].absent;
        if (strcmp(type, dropouts[i].model_type) != 0 || p == (dropouts[i].has_place ? config->dropout : 0)) continue;
        n += snprintf(text + n, HX_HF_LOST_TEXT - (size_t)n, "%s%s = %g", n > 0 ? ", " : "", dropouts[i].key, p);
    }
    return HX_OK;
}

/* ---- writing ---- */

static json_t *field_json(const field *f, const hx_gpt_config *config) {
    const void *at = (const char *)config + f->offset;
    if (f->kind == INT) return json_integer(*(const int64_t *)at);
    if (f->kind == REAL) return json_real(*(const double *)at);
    return json_boolean(*(const bool *)at);
}

static json_t *make_config(hx__hf_family family, const hx_gpt_config *config) {
    json_t *json = json_pack("{s:[s], s:s, s:s, s:n, s:n}", "architectures", families[family].architecture, "model_type",
                             families[family].model_type, "torch_dtype", torch_dtypes[config->dtype], "bos_token_id", "eos_token_id");
    for (int i = 0; i < families[family].n_fixed; i++)
        json_object_set_new(json, families[family].fixed[i].key, json_loads(families[family].fixed[i].json, JSON_DECODE_ANY, NULL));
    json_object_del(json, "quantization_config"); /* whose presence alone means something to readers */
    for (int i = 0; i < families[family].n_fields; i++)
        json_object_set_new(json, families[family].fields[i].key, field_json(&families[family].fields[i], config));
    return json;
}

static void add_gpt2(json_t *json, const hx_gpt_config *config) {
    int i = 0;
    while (activations[i].activation != config->activation) i++;
    json_object_set_new(json, "activation_function", json_string(activations[i].name));
    json_object_set_new(json, "embd_pdrop", json_real(config->dropout));
    json_object_set_new(json, "attn_pdrop", json_real(0));
    if (config->mlp_dim == 0) json_object_set_new(json, "n_inner", json_null());
}

hx_status hx_hf_config_write(const char *path, const hx_gpt_config *config) {
    hx__hf_family family;
    hx_gpt_config c = *config;
    HX_TRY(hx__hf_family_of(config, &family));
    if (c.kv_heads == 0) c.kv_heads = c.heads;
    if (c.mlp_dim == 0 && (family == HX__HF_LLAMA || c.mlp_ratio != 4)) c.mlp_dim = c.dim * c.mlp_ratio;
    AUTO_JSON *json = make_config(family, &c);
    if (json != NULL && family == HX__HF_GPT2) add_gpt2(json, &c);
    char *text = json == NULL ? NULL : json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    if (text == NULL) return HX_FAIL(HX_ERR_MEMORY, "%s: no memory for its JSON", path);
    hx_status status = hx__fs_replace_text(path, text, strlen(text));
    free(text);
    return status;
}
