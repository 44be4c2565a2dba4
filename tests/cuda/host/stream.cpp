/* stream.cpp - streams are queues of closures. When they run is a setting: at once, when the host
 * waits for them, or in a random order that streams and events allow. */
#include "race.h"

#include <algorithm>
#include <deque>
#include <time.h>
#include <vector>

namespace hostdevice {

/* What a program's event handle points to outlives it in the operations that name it. */
struct EventState {
    uint64_t recorded = 0; /* times cudaEventRecord was called */
    uint64_t done = 0;     /* times it came to pass */
    bool has_time = true;
    double milliseconds = 0;
    struct CUstream_st *stream = nullptr; /* of the newest record */
};

struct Operation {
    uint64_t number; /* in the order of the calls, over all streams */
    std::function<void()> run;
    std::shared_ptr<EventState> awaits; /* may run once it is done `awaited` times */
    uint64_t awaited;
};

} // namespace hostdevice

using namespace hostdevice;

struct CUstream_st {
    std::deque<Operation> queue;
    bool blocking = true; /* ordered with the default stream */
    bool destroyed = false;
};

struct CUevent_st {
    std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

namespace hostdevice {

static CUstream_st default_stream;
static std::vector<CUstream_st *> &streams = *new std::vector<CUstream_st *>;
static std::vector<CUevent_st *> &events = *new std::vector<CUevent_st *>;
static uint64_t next_number;
static long library_objects;

static bool is_default(cudaStream_t stream) {
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

/* The queue behind a handle, NULL (and a report) where there is none. */
static CUstream_st *stream_of(cudaStream_t stream) {
    if (is_default(stream))
        return &default_stream;
    auto found = std::find(streams.begin(), streams.end(), stream);
    if (found != streams.end() && !stream->destroyed)
        return stream;
    hostdevice_report("use of stream %p, which does not exist", static_cast<void *>(stream));
    return nullptr;
}

static EventState *event_of(cudaEvent_t event) {
    if (std::find(events.begin(), events.end(), event) != events.end())
        return event->state.get();
    hostdevice_report("use of event %p, which does not exist", static_cast<void *>(event));
    return nullptr;
}

/* ---- what may run ---- */

/* The stream whose work must go first, or NULL: the default stream and the blocking ones wait for
 * each other's earlier operations. */
static CUstream_st *goes_before(const CUstream_st *stream) {
    const uint64_t number = stream->queue.front().number;
    auto is_earlier = [number](const CUstream_st *other) {
        return !other->queue.empty() && other->queue.front().number < number;
    };
    if (stream == &default_stream) {
        for (CUstream_st *other : streams)
            if (other->blocking && is_earlier(other))
                return other;
    } else if (stream->blocking && is_earlier(&default_stream)) {
        return &default_stream;
    }
    return nullptr;
}

/* On a lost device events no longer come, and nothing waits for them. */
static bool is_held_back(const Operation &operation) {
    return operation.awaits != nullptr && operation.awaits->done < operation.awaited &&
           lost_error() == cudaSuccess;
}

/* The stream to run next so that the head of this one can run: itself where nothing is in the way.
 * NULL where an event is awaited that nobody will reach. */
static CUstream_st *next_towards(CUstream_st *stream) {
    for (size_t steps = 0; steps <= streams.size() + 1; steps++) {
        const Operation &head = stream->queue.front();
        CUstream_st *first = goes_before(stream);
        if (first == nullptr && is_held_back(head))
            first = head.awaits->stream;
        if (first == nullptr)
            return stream;
        if (first->queue.empty())
            return nullptr;
        stream = first;
    }
    return nullptr;
}

static void drop_if_finished(CUstream_st *stream) {
    if (!stream->destroyed || !stream->queue.empty())
        return;
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
}

static void run_head(CUstream_st *stream) {
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (operation.run != nullptr && !operation_fails())
        operation.run();
    drop_if_finished(stream);
}

static std::vector<CUstream_st *> busy_streams() {
    std::vector<CUstream_st *> busy;
    if (!default_stream.queue.empty())
        busy.push_back(&default_stream);
    for (CUstream_st *stream : streams)
        if (!stream->queue.empty())
            busy.push_back(stream);
    return busy;
}

static void forget_work() {
    default_stream.queue.clear();
    for (CUstream_st *stream : streams)
        stream->queue.clear();
}

/* One operation that brings `target` (NULL: any stream) further. */
static bool step(CUstream_st *target) {
    if (settings.streams == HOSTDEVICE_RANDOM || target == nullptr) {
        const std::vector<CUstream_st *> busy = busy_streams();
        if (busy.empty())
            return false;
        const bool random = settings.streams == HOSTDEVICE_RANDOM;
        target = busy[random ? stream_random.below(static_cast<uint32_t>(busy.size())) : 0];
    }
    CUstream_st *next = next_towards(target);
    if (next == nullptr) {
        hostdevice_report("streams wait for each other for ever");
        forget_work();
        return false;
    }
    run_head(next);
    return true;
}

/* Runs until `done`, which looks at the queues, says so. */
template <class Done> static void run_until(CUstream_st *target, Done done) {
    if (done())
        return;
    DeviceMemoryOpen open;
    while (!done() && step(target)) {
    }
}

void finish_all() {
    run_until(nullptr, [] { return busy_streams().empty(); });
}

static void finish_queue(CUstream_st *queue) {
    run_until(queue, [queue] { return queue->queue.empty(); });
}

static bool is_done(const std::shared_ptr<EventState> &event) {
    return event->done >= event->recorded;
}

/* ---- queueing ---- */

static void queued(CUstream_st *queue) {
    counts.operations++;
    if (settings.streams == HOSTDEVICE_EAGER)
        finish_queue(queue);
    if (settings.streams != HOSTDEVICE_RANDOM || stream_random.below(3) != 0)
        return;
    DeviceMemoryOpen open;
    for (uint32_t n = stream_random.below(4); n > 0; n--)
        step(nullptr);
}

static void put(CUstream_st *queue, std::function<void()> run,
                std::shared_ptr<EventState> awaits = nullptr) {
    const uint64_t awaited = awaits != nullptr ? awaits->recorded : 0;
    queue->queue.push_back({next_number++, std::move(run), std::move(awaits), awaited});
    queued(queue);
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation) {
    CUstream_st *queue = stream_of(stream);
    if (queue == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    put(queue, std::move(operation));
    return cudaSuccess;
}

cudaError_t finish_stream(cudaStream_t stream) {
    CUstream_st *queue = stream_of(stream);
    if (queue == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    counts.synchronisations++;
    finish_queue(queue);
    return noted(lost_error());
}

void reset_streams() {
    forget_work();
    for (CUstream_st *stream : streams)
        delete stream;
    for (CUevent_st *event : events)
        delete event;
    streams.clear();
    events.clear();
    library_objects = 0;
}

size_t live_stream_objects() {
    size_t live = events.size() + static_cast<size_t>(library_objects);
    for (const CUstream_st *stream : streams)
        live += stream->destroyed ? 0 : 1;
    return live;
}

/* ---- for libraries ---- */

cudaError_t library_call() {
    HOSTDEVICE_LOCK();
    return call_may_fail();
}

void library_object(int change) {
    HOSTDEVICE_LOCK();
    library_objects += change;
}

cudaError_t library_launch(const hostdevice_kernel &work, cudaStream_t stream,
                           std::function<void()> run) {
    HOSTDEVICE_LOCK();
    counts.launches++;
    return enqueue(stream, [=] {
        run();
        check_red_zones(work.name);
        count_launch(work);
    });
}

static double now_milliseconds() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

static cudaError_t make_stream(cudaStream_t *out, bool blocking) {
    HOSTDEVICE_LOCK();
    *out = nullptr;
    if (const cudaError_t error = call_may_fail())
        return error;
    *out = new CUstream_st();
    (*out)->blocking = blocking;
    streams.push_back(*out);
    return cudaSuccess;
}

static cudaError_t make_event(cudaEvent_t *out, bool has_time) {
    HOSTDEVICE_LOCK();
    *out = nullptr;
    if (const cudaError_t error = call_may_fail())
        return error;
    *out = new CUevent_st();
    (*out)->state->has_time = has_time;
    events.push_back(*out);
    return cudaSuccess;
}

/* A host that asks again and again sees work go on, one operation a question. */
static cudaError_t answer_query(CUstream_st *target, bool done) {
    if (done)
        return lost_error() != cudaSuccess ? noted(lost_error()) : cudaSuccess;
    DeviceMemoryOpen open;
    step(target);
    return cudaErrorNotReady;
}

} // namespace hostdevice

/* ---- the runtime's functions ---- */

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return make_stream(out, true);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags) {
    return make_stream(out, (flags & cudaStreamNonBlocking) == 0);
}

/* Work that is queued is still done. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    CUstream_st *queue = is_default(stream) ? nullptr : stream_of(stream);
    if (queue == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    queue->destroyed = true;
    drop_if_finished(queue);
    return noted(lost_error());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    return finish_stream(stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    CUstream_st *queue = stream_of(stream);
    if (queue == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    return answer_query(queue, queue->queue.empty());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    CUstream_st *queue = stream_of(stream);
    if (queue == nullptr || event_of(event) == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    if (event->state->recorded != 0)
        put(queue, nullptr, event->state);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return make_event(out, true);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags) {
    return make_event(out, (flags & cudaEventDisableTiming) == 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    HOSTDEVICE_LOCK();
    if (event_of(event) == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    events.erase(std::find(events.begin(), events.end(), event));
    delete event;
    return noted(lost_error());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    CUstream_st *queue = stream_of(stream);
    if (queue == nullptr || event_of(event) == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    std::shared_ptr<EventState> state = event->state;
    const uint64_t record = ++state->recorded;
    state->stream = queue;
    put(queue, [state, record] {
        state->done = std::max(state->done, record);
        state->milliseconds = now_milliseconds();
    });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    if (event_of(event) == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    return answer_query(event->state->stream, is_done(event->state));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    if (event_of(event) == nullptr)
        return noted(cudaErrorInvalidResourceHandle);
    counts.synchronisations++;
    std::shared_ptr<EventState> state = event->state;
    run_until(state->stream, [state] { return is_done(state) || lost_error() != cudaSuccess; });
    return noted(lost_error());
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    const EventState *from = event_of(start), *to = event_of(end);
    if (from == nullptr || to == nullptr || !from->has_time || !to->has_time ||
        from->recorded == 0 || to->recorded == 0)
        return noted(cudaErrorInvalidResourceHandle);
    if (!is_done(start->state) || !is_done(end->state))
        return cudaErrorNotReady;
    *milliseconds = static_cast<float>(to->milliseconds - from->milliseconds);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    counts.synchronisations++;
    finish_all();
    return noted(lost_error());
}
