/* family_rope.c - rotary positions in config.json, as both generations of transformers write them.
 */
#include "core/json.h"
#include "model/family.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The object that says how positions are scaled. transformers 5 lets an old rope_scaling go before
 * its own rope_parameters. */
static lisa_status find_scaling(const json_t *json, const char *file,
                                struct lisa__json_source *scaling) {
    static const char *const keys[][2] = {{"rope_scaling", "rope_scaling."},
                                          {"rope_parameters", "rope_parameters."}};
    *scaling = (struct lisa__json_source){NULL, file, ""};
    for (int i = 1; i >= 0; i--) {
        const char *inner;
        json_t *value;
        json_t *object = json_object_get(json, keys[i][0]);
        if (object == NULL || json_is_null(object))
            continue;
        if (!json_is_object(object))
            return lisa__fail(LISA_E_FORMAT, "%s: \"%s\": an object or null expected", file,
                              keys[i][0]);
        json_object_foreach(object, inner, value) {
            if (json_is_object(value))
                return lisa__fail(
                    LISA_E_UNSUPPORTED,
                    "%s: \"%s%.40s\": positions per type of layer are not implemented", file,
                    keys[i][1], inner);
        }
        *scaling = (struct lisa__json_source){object, file, keys[i][1]};
    }
    return LISA_OK;
}

static lisa_status read_theta(lisa_model_config *config, const json_t *json,
                              struct lisa__json_source scaling) {
    const struct lisa__json_source top = {json, scaling.file, ""};
    const struct lisa__json_source v5 = {json_object_get(json, "rope_parameters"), scaling.file,
                                         "rope_parameters."};
    double outer, inner;
    LISA_TRY(lisa__json_double(top, "rope_theta", 10000.0, DBL_MIN, DBL_MAX, &outer));
    LISA_TRY(lisa__json_double(v5, "rope_theta", outer, DBL_MIN, DBL_MAX, &inner));
    LISA_TRY(lisa__json_double(scaling, "rope_theta", inner, DBL_MIN, DBL_MAX, &inner));
    if (inner != outer && lisa__json_has(json, "rope_theta"))
        return lisa__fail(LISA_E_FORMAT, "%s: \"rope_theta\" is %g, but \"%srope_theta\" is %g",
                          scaling.file, outer, scaling.prefix, inner);
    config->rope_theta = inner;
    return LISA_OK;
}

static lisa_status read_llama3(lisa_model_config *config, struct lisa__json_source scaling) {
    static const char *const needed[] = {"low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        LISA_TRY(lisa__json_require(scaling, needed[i]));
    LISA_TRY(
        lisa__json_double(scaling, needed[0], 0, DBL_MIN, DBL_MAX, &config->rope_low_freq_factor));
    LISA_TRY(
        lisa__json_double(scaling, needed[1], 0, DBL_MIN, DBL_MAX, &config->rope_high_freq_factor));
    LISA_TRY(lisa__json_u32(scaling, needed[2], 0, 1, INT32_MAX, &config->rope_original_positions));
    if (config->rope_high_freq_factor <= config->rope_low_freq_factor)
        return lisa__fail(
            LISA_E_FORMAT,
            "%s: \"%shigh_freq_factor\" is %g, more than low_freq_factor's %g expected",
            scaling.file, scaling.prefix, config->rope_high_freq_factor,
            config->rope_low_freq_factor);
    return LISA_OK;
}

static lisa_status read_scaling(lisa_model_config *config, struct lisa__json_source scaling) {
    const char *older, *type;
    LISA_TRY(lisa__json_string(scaling, "type", NULL, &older));
    LISA_TRY(lisa__json_string(scaling, "rope_type", older, &type));
    /* transformers 5 leaves the type out where it is the default; 4 never wrote that. */
    if (type == NULL && strcmp(scaling.prefix, "rope_scaling.") == 0)
        return lisa__json_require(scaling, "rope_type");
    if (type == NULL || strcmp(type, "default") == 0)
        return LISA_OK;
    const int is_linear = strcmp(type, "linear") == 0;
    if (!is_linear && strcmp(type, "llama3") != 0)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: \"%srope_type\" is \"%.40s\"; default, linear and llama3 are "
                          "implemented",
                          scaling.file, scaling.prefix, type);
    config->rope = is_linear ? LISA_ROPE_LINEAR : LISA_ROPE_LLAMA3;
    LISA_TRY(lisa__json_require(scaling, "factor"));
    LISA_TRY(lisa__json_double(scaling, "factor", 1, DBL_MIN, DBL_MAX, &config->rope_factor));
    return is_linear ? LISA_OK : read_llama3(config, scaling);
}

/* How much of a head rotates; a file says it outside, inside, or leaves it to the family. */
static lisa_status read_partial(lisa_model_config *config, const struct lisa__family *family,
                                const json_t *json, struct lisa__json_source scaling) {
    static const char *const key = "partial_rotary_factor";
    const int is_partial = family->partial_rotary != 0;
    const struct lisa__json_source top = {is_partial ? json : NULL, scaling.file, ""};
    const struct lisa__json_source v5 = {json_object_get(json, "rope_parameters"), scaling.file,
                                         "rope_parameters."};
    double outer, inner;
    LISA_TRY(lisa__json_double(top, key, is_partial ? family->partial_rotary : 1, DBL_MIN, DBL_MAX,
                               &outer));
    LISA_TRY(lisa__json_double(v5, key, outer, DBL_MIN, DBL_MAX, &inner));
    LISA_TRY(lisa__json_double(scaling, key, inner, DBL_MIN, DBL_MAX, &inner));
    if (inner != outer && lisa__json_has(top.object, key))
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s\" is %g, but \"%s%s\" is %g", scaling.file, key,
                          outer, scaling.prefix, key, inner);
    if (!is_partial && inner != 1)
        return lisa__fail(LISA_E_UNSUPPORTED, "%s: \"%s%s\" is %g; 1 is implemented", scaling.file,
                          scaling.prefix, key, inner);
    if (inner > 1 || inner * config->head_dim < 1)
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s%s\" is %g, expected 1 / head_dim %u to 1",
                          scaling.file, scaling.prefix, key, inner, config->head_dim);
    config->rotary_dim = (uint32_t)(inner * config->head_dim);
    return LISA_OK;
}

lisa_status lisa__rope_read(lisa_model_config *config, const struct lisa__family *family,
                            const json_t *json, const char *file) {
    struct lisa__json_source scaling;
    config->rope = LISA_ROPE_DEFAULT;
    LISA_TRY(find_scaling(json, file, &scaling));
    LISA_TRY(read_theta(config, json, scaling));
    LISA_TRY(read_partial(config, family, json, scaling));
    return scaling.object == NULL ? LISA_OK : read_scaling(config, scaling);
}

/* As transformers 4 wants it: "linear" under its older key and with nothing beside the factor. */
static json_t *scaling_of(const lisa_model_config *config) {
    if (config->rope == LISA_ROPE_LINEAR)
        return json_pack("{s:s, s:f}", "type", "linear", "factor", config->rope_factor);
    if (config->rope == LISA_ROPE_LLAMA3)
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
                         config->rope_factor, "low_freq_factor", config->rope_low_freq_factor,
                         "high_freq_factor", config->rope_high_freq_factor,
                         "original_max_position_embeddings",
                         (json_int_t)config->rope_original_positions);
    return json_null();
}

/* The factor that gives rotary_dim back when the fraction is cut off. */
static double partial_of(const lisa_model_config *config) {
    double factor = (double)config->rotary_dim / config->head_dim;
    while ((uint32_t)(factor * config->head_dim) < config->rotary_dim)
        factor = nextafter(factor, 2);
    return factor;
}

lisa_status lisa__rope_write(const lisa_model_config *config, const struct lisa__family *family,
                             json_t *json) {
    int failed = 0;
    failed |= json_object_set_new(json, "rope_theta", json_real(config->rope_theta));
    failed |= json_object_set_new(json, "rope_scaling", scaling_of(config));
    if (family->partial_rotary != 0)
        failed |= json_object_set_new(json, "partial_rotary_factor", json_real(partial_of(config)));
    return failed ? lisa__fail(LISA_E_NOMEM, "config.json: out of memory for its JSON") : LISA_OK;
}
