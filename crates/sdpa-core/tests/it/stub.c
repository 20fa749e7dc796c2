// A stand-in for libcuda: it has what is called here, answers as a driver with healthy GPUs would, and writes down each call.
//
// STUB_LOG      file to append a line per call to: the function's name, then what is wrong with the call, if anything
// STUB_FAIL     functions that answer with a code instead: cuInit=804,cuModuleLoadData=222
// STUB_DEVICES  how many GPUs there are; 1 if not given
// STUB_POOLS    0 for GPUs without memory pools
// STUB_CODE     what cuModuleLoadData answers if it is given machine code and no text; 0 if not given
// STUB_VERSION  what cuDriverGetVersion says; 13000 if not given
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_ISOLATION = 905 };
enum { MEMORY_POOLS_SUPPORTED = 115 };

typedef struct {
    int device;
} Context;

typedef struct {
    Context *context;
    int capturing;
    int invalidated;
    int nodes;
} Stream;

typedef struct {
    Context *context;
    // Whether it was recorded outside of a capture.
    int outside;
} Event;

typedef struct {
    Context *context;
    int nodes;
} Graph;

typedef struct {
    uint64_t address;
    // Whether it was allocated while a graph was being recorded.
    int captured;
} Allocation;

static Context contexts[8];
static _Thread_local Context *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Allocation allocations[4096];
static int allocation_count;
// The stream that records a graph, if one does.
static Stream *recording;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static void note(const char *function, const char *wrong) {
    const char *path = getenv("STUB_LOG");
    if (!path) return;
    pthread_mutex_lock(&lock);
    FILE *file = fopen(path, "a");
    if (file) {
        fprintf(file, "%s%s%s\n", function, *wrong ? " " : "", wrong);
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
}

// The code that STUB_FAIL gives for a function, else 0.
static int failure(const char *function) {
    const char *text = getenv("STUB_FAIL");
    const size_t length = strlen(function);
    while (text && *text) {
        if (!strncmp(text, function, length) && text[length] == '=') return atoi(text + length + 1);
        text = strchr(text, ',');
        if (text) ++text;
    }
    return 0;
}

#define BEGIN                                      \
    do {                                           \
        const int code = failure(__func__);        \
        if (code) return note(__func__, "fails"), code; \
    } while (0)

// A call that wants some context to be current, or that of what it works on.
#define WANTS(condition)                                            \
    do {                                                            \
        BEGIN;                                                      \
        if (!(condition)) {                                         \
            note(__func__, "WITHOUT ITS CONTEXT");                  \
            return INVALID_CONTEXT;                                 \
        }                                                           \
    } while (0)

// A call that ends the recording of a graph, if one is being recorded.
#define NOT_WHILE_CAPTURING                                         \
    do {                                                            \
        if (recording) {                                            \
            recording->invalidated = 1;                             \
            note(__func__, "WHILE A GRAPH IS RECORDED");            \
            return CAPTURE_UNSUPPORTED;                             \
        }                                                           \
    } while (0)

#define DONE return note(__func__, ""), 0

int cuGetErrorName(int code, const char **name) {
    static _Thread_local char text[32];
    if (code == 12345) return INVALID_VALUE;
    snprintf(text, sizeof text, "NAME_OF_%d", code);
    *name = text;
    DONE;
}
int cuGetErrorString(int code, const char **words) {
    static _Thread_local char text[32];
    if (code == 12345) return INVALID_VALUE;
    snprintf(text, sizeof text, "words for %d", code);
    *words = text;
    DONE;
}
int cuInit(unsigned flags) { BEGIN; (void)flags; DONE; }
int cuDriverGetVersion(int *version) { BEGIN; *version = (int)setting("STUB_VERSION", 13000); DONE; }
int cuDeviceGetCount(int *count) { BEGIN; *count = (int)setting("STUB_DEVICES", 1); DONE; }
int cuDeviceGet(int *device, int ordinal) {
    BEGIN;
    if (ordinal >= setting("STUB_DEVICES", 1)) return note(__func__, ""), INVALID_DEVICE;
    *device = ordinal;
    DONE;
}
int cuDeviceGetName(char *name, int length, int device) {
    BEGIN;
    snprintf(name, length, "stub GPU %d", device);
    DONE;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    (void)device;
    switch (attribute) {
        case 75: *value = 9; break;
        case 76: *value = 0; break;
        case 16: *value = 132; break;
        case MEMORY_POOLS_SUPPORTED: *value = (int)setting("STUB_POOLS", 1); break;
        default: *value = 232448;
    }
    DONE;
}
int cuDevicePrimaryCtxRetain(Context **context, int device) {
    BEGIN;
    contexts[device].device = device;
    *context = &contexts[device];
    DONE;
}
int cuDevicePrimaryCtxRelease_v2(int device) { BEGIN; (void)device; DONE; }
int cuCtxGetCurrent(Context **context) { BEGIN; *context = current; DONE; }
int cuCtxSetCurrent(Context *context) { BEGIN; current = context; DONE; }
int cuCtxSynchronize(void) { WANTS(current); NOT_WHILE_CAPTURING; DONE; }

int cuStreamCreate(Stream **stream, unsigned flags) {
    WANTS(current);
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    (*stream)->context = current;
    DONE;
}
int cuStreamDestroy_v2(Stream *stream) { WANTS(current == stream->context); DONE; }
int cuStreamSynchronize(Stream *stream) { WANTS(current == stream->context); NOT_WHILE_CAPTURING; DONE; }
int cuStreamIsCapturing(Stream *stream, int *status) {
    WANTS(current == stream->context);
    *status = stream->invalidated ? 2 : stream->capturing;
    DONE;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    WANTS(current == stream->context);
    (void)flags;
    if (stream->capturing && event->outside) {
        stream->invalidated = 1;
        return note(__func__, "FOR AN EVENT FROM BEFORE THE RECORDING"), CAPTURE_ISOLATION;
    }
    DONE;
}
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    WANTS(current == stream->context);
    (void)mode;
    stream->capturing = 1;
    stream->nodes = 0;
    recording = stream;
    DONE;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    WANTS(current == stream->context);
    const int invalidated = stream->invalidated;
    stream->capturing = stream->invalidated = 0;
    recording = 0;
    if (invalidated) return note(__func__, "OF A LOST RECORDING"), CAPTURE_INVALIDATED;
    *graph = malloc(sizeof **graph);
    **graph = (Graph){stream->context, stream->nodes};
    char nodes[32];
    snprintf(nodes, sizeof nodes, "nodes=%d", stream->nodes);
    return note(__func__, nodes), 0;
}
int cuGraphInstantiateWithFlags(Graph **exec, Graph *graph, unsigned long long flags) {
    WANTS(current == graph->context);
    (void)flags;
    *exec = graph;
    DONE;
}
int cuGraphLaunch(Graph *exec, Stream *stream) { WANTS(current == stream->context); (void)exec; DONE; }
int cuGraphExecDestroy(Graph *exec) { WANTS(current == exec->context); DONE; }
int cuGraphDestroy(Graph *graph) { WANTS(current == graph->context); free(graph); DONE; }

int cuEventCreate(Event **event, unsigned flags) {
    WANTS(current);
    (void)flags;
    *event = calloc(1, sizeof **event);
    (*event)->context = current;
    DONE;
}
int cuEventRecord(Event *event, Stream *stream) {
    WANTS(current == event->context);
    event->outside = !stream->capturing;
    DONE;
}
int cuEventSynchronize(Event *event) { WANTS(current == event->context); DONE; }
int cuEventElapsedTime(float *ms, Event *start, Event *end) { WANTS(current == start->context); (void)end; *ms = 1; DONE; }
int cuEventElapsedTime_v2(float *ms, Event *start, Event *end) { WANTS(current == start->context); (void)end; *ms = 1; DONE; }
int cuEventDestroy_v2(Event *event) { WANTS(current == event->context); DONE; }

// Addresses of one device are those of the other, too, as two contexts' may be.
static uint64_t allocate(int captured) {
    pthread_mutex_lock(&lock);
    const uint64_t address = 0x10000000ull + 0x100000ull * allocation_count;
    allocations[allocation_count] = (Allocation){address, captured};
    if (allocation_count < 4095) ++allocation_count;
    pthread_mutex_unlock(&lock);
    return address;
}
static int was_captured(uint64_t address) {
    for (int i = 0; i < allocation_count; ++i) {
        if (allocations[i].address == address) return allocations[i].captured;
    }
    return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    WANTS(current);
    NOT_WHILE_CAPTURING;
    (void)bytes;
    *address = allocate(0);
    DONE;
}
int cuMemAllocAsync(uint64_t *address, size_t bytes, Stream *stream) {
    WANTS(current == stream->context);
    (void)bytes;
    stream->nodes += stream->capturing;
    *address = allocate(stream->capturing);
    DONE;
}
int cuMemFree_v2(uint64_t address) { WANTS(current); NOT_WHILE_CAPTURING; (void)address; DONE; }
int cuMemFreeAsync(uint64_t address, Stream *stream) {
    WANTS(current == stream->context);
    if (stream->capturing && !was_captured(address)) {
        stream->invalidated = 1;
        return note(__func__, "OF MEMORY FROM BEFORE THE RECORDING"), INVALID_VALUE;
    }
    stream->nodes += stream->capturing;
    DONE;
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t count, Stream *stream) {
    WANTS(current == stream->context);
    (void)address, (void)value, (void)count;
    stream->nodes += stream->capturing;
    DONE;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    WANTS(current == stream->context);
    NOT_WHILE_CAPTURING;
    (void)to, (void)from, (void)bytes;
    DONE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    WANTS(current == stream->context);
    NOT_WHILE_CAPTURING;
    (void)from;
    memset(to, 0, bytes);
    DONE;
}

int cuModuleLoadData(Context **module, const void *image) {
    WANTS(current);
    NOT_WHILE_CAPTURING;
    *module = current;
    if (memcmp(image, "\x7f" "ELF", 4)) DONE;
    note("cuModuleLoadData(code)", "");
    return (int)setting("STUB_CODE", 0);
}
int cuModuleGetFunction(Context **function, Context *module, const char *name) {
    WANTS(current == module);
    (void)name;
    *function = module;
    DONE;
}
int cuModuleUnload(Context *module) { WANTS(current == module); DONE; }
int cuFuncGetAttribute(int *value, int attribute, Context *function) {
    WANTS(current == function);
    (void)attribute;
    *value = 32;
    DONE;
}
int cuFuncSetAttribute(Context *function, int attribute, int value) {
    WANTS(current == function);
    (void)attribute, (void)value;
    DONE;
}
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address) {
    WANTS(current);
    (void)map, (void)type, (void)rank, (void)address;
    DONE;
}
int cuTensorMapReplaceAddress(void *map, void *address) {
    WANTS(current);
    (void)map, (void)address;
    DONE;
}
int cuLaunchKernel(Context *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **params, void **extra) {
    WANTS(current == function && current == stream->context);
    (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)params, (void)extra;
    stream->nodes += stream->capturing;
    DONE;
}
