#include "core/context.h"

#include "backend/registry.h"
#include "core/pool.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const class_names[LISA_MEM_CLASSES] = {
    "mapped weights", "private weights", "gradients", "moments",    "low bits", "activations",
    "recompute",      "logits",          "workspace", "evaluation", "staging",  "disk",
    "handles",        "driver",          "host",
};

const char *lisa_memory_class_name(uint32_t memory_class) {
    return memory_class < LISA_MEM_CLASSES ? class_names[memory_class] : "?";
}

/* From here on pages come from the system and go back to it: the C library would keep what it is
 * given back, and more would be resident than is held. */
static const size_t LARGE = (size_t)1 << 20;

static void *default_alloc(void *user, size_t size, size_t align) {
    (void)user;
    void *ptr = NULL;
    if (size < LARGE)
        return posix_memalign(&ptr, align, size) == 0 ? ptr : NULL;
    ptr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return ptr != MAP_FAILED ? ptr : NULL;
}

static void default_release(void *user, void *ptr, size_t size, size_t align) {
    (void)user;
    (void)align;
    if (size < LARGE)
        free(ptr);
    else
        munmap(ptr, size);
}

int lisa__is_limited(uint32_t memory_class) {
    return memory_class != LISA_MEM_WEIGHTS_MAPPED && memory_class != LISA_MEM_DISK &&
           memory_class != LISA_MEM_HOST && memory_class != LISA_MEM_DRIVER;
}

void lisa__account(lisa_context *context, uint32_t memory_class, uint64_t bytes) {
    context->current[memory_class] += bytes;
    if (context->current[memory_class] > context->peak[memory_class])
        context->peak[memory_class] = context->current[memory_class];
    if (lisa__is_limited(memory_class))
        context->limited += bytes;
}

void lisa__unaccount(lisa_context *context, uint32_t memory_class, uint64_t bytes) {
    context->current[memory_class] -= bytes;
    if (lisa__is_limited(memory_class))
        context->limited -= bytes;
}

uint64_t lisa__spare(const lisa_context *context) {
    const uint64_t limit = context->options.memory_limit;
    if (limit == 0)
        return UINT64_MAX;
    return limit > context->limited ? limit - context->limited : 0;
}

static lisa_status over_limit(const lisa_context *context, uint32_t memory_class, uint64_t bytes) {
    return lisa__fail(
        LISA_E_BUDGET, "memory_limit of %llu bytes: class %s needs %llu more, %llu are left",
        (unsigned long long)context->options.memory_limit, lisa_memory_class_name(memory_class),
        (unsigned long long)bytes, (unsigned long long)lisa__spare(context));
}

void *lisa__alloc(lisa_context *context, uint32_t memory_class, uint64_t bytes,
                  lisa_status *status) {
    lisa_status failure = LISA_OK;
    void *ptr = NULL;
    if (lisa__is_limited(memory_class) && bytes > lisa__spare(context))
        failure = over_limit(context, memory_class, bytes);
    else if (bytes <= SIZE_MAX / 2)
        ptr =
            context->options.alloc(context->options.alloc_user, bytes == 0 ? 1 : (size_t)bytes, 64);
    if (ptr != NULL)
        lisa__account(context, memory_class, bytes);
    else if (failure == LISA_OK)
        failure = lisa__fail(LISA_E_NOMEM, "out of memory: %llu bytes of class %s",
                             (unsigned long long)bytes, lisa_memory_class_name(memory_class));
    if (status != NULL)
        *status = failure;
    return ptr;
}

void lisa__release(lisa_context *context, uint32_t memory_class, void *ptr, uint64_t bytes) {
    if (ptr == NULL)
        return;
    lisa__unaccount(context, memory_class, bytes);
    context->options.release(context->options.alloc_user, ptr, bytes == 0 ? 1 : (size_t)bytes, 64);
}

lisa_status lisa__poll(const lisa_context *context) {
    if (context->options.interrupt != NULL &&
        context->options.interrupt(context->options.interrupt_user) != 0)
        return lisa__fail(LISA_E_CANCELLED, "the interrupt callback asked to stop");
    return LISA_OK;
}

void lisa__log(const lisa_context *context, int32_t level, const char *format, ...) {
    if (context == NULL || context->options.log == NULL || level > context->options.log_level)
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    context->options.log(context->options.log_user, level, line);
}

static lisa_status host_alloc(void *self, void **out, uint32_t memory_class, size_t bytes) {
    lisa_status status;
    *out = lisa__alloc(self, memory_class, bytes, &status);
    return status;
}

static void host_release(void *self, uint32_t memory_class, void *ptr, size_t bytes) {
    lisa__release(self, memory_class, ptr, bytes);
}

static lisa_status host_account(void *self, uint32_t memory_class, size_t bytes) {
    lisa_context *context = self;
    if (lisa__is_limited(memory_class) && bytes > lisa__spare(context))
        return over_limit(context, memory_class, bytes);
    lisa__account(context, memory_class, bytes);
    return LISA_OK;
}

static void host_unaccount(void *self, uint32_t memory_class, size_t bytes) {
    lisa__unaccount(self, memory_class, bytes);
}

static lisa_status host_fail(void *self, lisa_status status, const char *text) {
    (void)self;
    return lisa__fail(status, "%s", text);
}

static void host_parallel(void *self, uint32_t n,
                          void (*task)(void *arg, uint32_t i, uint32_t thread), void *arg) {
    lisa_context *context = self;
    lisa__pool_run(context->pool, n, task, arg);
}

uint32_t lisa__processors(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) < 1)
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

static void default_allocator(lisa_context_options *options) {
    if (options->alloc != NULL)
        return;
    options->alloc = default_alloc;
    options->release = default_release;
}

static lisa_status start(lisa_context *context, const lisa_backend_ops *ops) {
    LISA_TRY(lisa__pool_create(&context->pool, context->n_threads, context->options.alloc,
                               context->options.release, context->options.alloc_user));
    context->host = (lisa_backend_host){
        .self = context,
        .alloc = host_alloc,
        .release = host_release,
        .account = host_account,
        .unaccount = host_unaccount,
        .fail = host_fail,
        .parallel = host_parallel,
        .n_threads = context->n_threads,
    };
    return ops->start(&context->be, &context->host);
}

static lisa_status create(lisa_context **out, const lisa_context_options *given,
                          const char *backend) {
    lisa_context_options options = *given;
    default_allocator(&options);
    const lisa_backend_ops *ops = NULL;
    LISA_TRY(lisa__backend_find(&ops, backend));

    lisa_context *context = options.alloc(options.alloc_user, sizeof *context, 64);
    if (context == NULL)
        return lisa__fail(LISA_E_NOMEM, "out of memory: a context of %zu bytes", sizeof *context);
    memset(context, 0, sizeof *context);
    context->references = 1;
    context->options = options;
    context->options.backend = NULL; /* the host's string; ops->name says it from here on */
    context->n_threads = options.n_threads != 0 ? options.n_threads : lisa__processors();
    lisa__account(context, LISA_MEM_HANDLES, sizeof *context);
    lisa_status status = start(context, ops);
    if (status != LISA_OK) {
        lisa__context_release(context);
        return status;
    }
    *out = context;
    return LISA_OK;
}

static int is_auto(const lisa_context_options *options) {
    return options->backend != NULL && strcmp(options->backend, "auto") == 0;
}

lisa_status lisa__context_create(lisa_context **out, const lisa_context_options *options) {
    if (!is_auto(options))
        return create(out, options, options->backend);
    struct lisa__error_kept before, why;
    lisa__error_keep(&before);
    if (create(out, options, "cuda") == LISA_OK)
        return LISA_OK;
    lisa__error_keep(&why);
    lisa__error_restore(&before);
    LISA_TRY(create(out, options, "cpu"));
    lisa__log(*out, LISA_LOG_INFO, "backend \"auto\" is cpu, because cuda does not start: %s",
              why.text);
    return LISA_OK;
}

lisa_status lisa__context_choose(const lisa_backend_ops **out,
                                 const lisa_context_options *options) {
    if (!is_auto(options))
        return lisa__backend_find(out, options->backend);
    const lisa_context_options trial = {
        .struct_size = sizeof trial, .backend = "auto", .n_threads = 1};
    lisa_context *context = NULL;
    LISA_TRY(lisa__context_create(&context, &trial));
    *out = context->be->ops;
    lisa__context_release(context);
    return LISA_OK;
}

lisa_context *lisa__context_retain(lisa_context *context) {
    context->references++;
    return context;
}

void lisa__context_release(lisa_context *context) {
    if (context == NULL || --context->references != 0)
        return;
    if (context->be != NULL)
        context->be->ops->stop(context->be);
    lisa__pool_destroy(context->pool);
    context->options.release(context->options.alloc_user, context, sizeof *context, 64);
}
