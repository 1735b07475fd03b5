/* A libnvidia-ml.so.1 with made-up devices: just the functions that services/agent/machine/gpus.py calls.
 *
 * NVML_STUB_DIR names a folder whose files say how it behaves, read at every call, so that a test can change it
 * under a running process:
 *   init            the code that nvmlInitWithFlags answers (18: driver/library version mismatch)
 *   gpus            a line a device, in NVML's order: "<bus> <uuid> <name without spaces> <memory in MiB>"
 *   lost.<i>        device i is lost           unsupported.<i>   it knows no utilisation and no temperature
 *   odd.<i>         its utilisation answers the code in this file
 *   compute.<i>, graphics.<i>                  the pids on it, a line each, with the MiB it uses or - (not known)
 *   mig.<i>         it is in MIG mode, with the MIG devices of this file: "<place> <uuid> <gi> <ci> <memory in MiB>"
 * and it adds a line to the file "inits" there for every start.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };
enum { MAX = 16 };

struct device {
    int index, mig_place; /* mig_place is -1 for a whole GPU */
    unsigned bus, gi, ci;
    char uuid[80], name[64];
    unsigned long long mib;
};
struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };

static struct device gpus[MAX], migs[MAX][MAX];
static int gpu_count;

static FILE *control(const char *name, int index, const char *mode) {
    char path[4096];
    const char *dir = getenv("NVML_STUB_DIR");
    if (!dir) return NULL;
    if (index < 0) snprintf(path, sizeof path, "%s/%s", dir, name);
    else snprintf(path, sizeof path, "%s/%s.%d", dir, name, index);
    return fopen(path, mode);
}

static int has(const char *name, int index) {
    FILE *f = control(name, index, "r");
    if (f) fclose(f);
    return f != NULL;
}

static int number(const char *name, int index, int otherwise) {
    int value = otherwise;
    FILE *f = control(name, index, "r");
    if (f) {
        if (fscanf(f, "%d", &value) != 1) value = otherwise;
        fclose(f);
    }
    return value;
}

static int check(const struct device *d) { return has("lost", d->index) ? LOST : SUCCESS; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    FILE *f = control("inits", -1, "a");
    if (f) {
        fputs("init\n", f);
        fclose(f);
    }
    int code = number("init", -1, SUCCESS);
    if (code != SUCCESS) return code;
    gpu_count = 0;
    f = control("gpus", -1, "r");
    while (f && gpu_count < MAX) {
        struct device *d = &gpus[gpu_count];
        if (fscanf(f, "%x %79s %63s %llu", &d->bus, d->uuid, d->name, &d->mib) != 4) break;
        d->index = gpu_count++;
        d->mig_place = -1;
    }
    if (f) fclose(f);
    return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)gpu_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    if ((int)index >= gpu_count) return INVALID;
    *out = &gpus[index];
    return check(*out);
}

int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out) {
    memset(out, 0, sizeof *out);
    out->bus = d->bus;
    return check(d);
}

int nvmlDeviceGetUUID(struct device *d, char *out, unsigned size) {
    snprintf(out, size, "%s", d->uuid);
    return check(d);
}

int nvmlDeviceGetName(struct device *d, char *out, unsigned size) {
    snprintf(out, size, "%s", d->name);
    return check(d);
}

int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out) {
    out->total = d->mib << 20;
    out->used = (unsigned long long)(1000 + d->index) << 20;
    out->free = out->total - out->used;
    return check(d);
}

int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *out) {
    out->total = d->mib << 20;
    out->reserved = 500ULL << 20;
    out->used = (unsigned long long)(100 + d->index) << 20;
    out->free = out->total - out->used - out->reserved;
    return check(d);
}

int nvmlDeviceGetUtilizationRates(struct device *d, unsigned out[2]) {
    if (check(d)) return LOST;
    if (d->mig_place >= 0 || has("unsupported", d->index)) return NOT_SUPPORTED;
    out[0] = 40 + (unsigned)d->index;
    out[1] = 0;
    return number("odd", d->index, SUCCESS);
}

int nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *out) {
    (void)sensor;
    if (check(d)) return LOST;
    if (d->mig_place >= 0 || has("unsupported", d->index)) return NOT_SUPPORTED;
    *out = 60 + (unsigned)d->index;
    return SUCCESS;
}

static int processes(const char *kind, struct device *d, unsigned *count, struct process *out) {
    unsigned room = *count, found = 0, pid;
    char used[32];
    if (check(d)) return LOST;
    FILE *f = control(kind, d->index, "r");
    while (f && fscanf(f, "%u %31s", &pid, used) == 2) {
        if (found < room && out) {
            memset(&out[found], 0, sizeof *out);
            out[found].pid = pid;
            out[found].used = used[0] == '-' ? ~0ULL : strtoull(used, NULL, 10) << 20;
        }
        found++;
    }
    if (f) fclose(f);
    *count = found;
    return found > room ? TOO_SMALL : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count, struct process *out) {
    return processes("compute", d, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *d, unsigned *count, struct process *out) {
    return processes("graphics", d, count, out);
}

int nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending) {
    *current = *pending = (unsigned)has("mig", d->index);
    return check(d);
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *count) {
    *count = 7;
    return check(d);
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **out) {
    struct device *mig = &migs[d->index][index];
    int place, code = NOT_FOUND;
    FILE *f = control("mig", d->index, "r");
    *mig = *d;
    while (f && code == NOT_FOUND &&
           fscanf(f, "%d %79s %u %u %llu", &place, mig->uuid, &mig->gi, &mig->ci, &mig->mib) == 5)
        if (place == (int)index) code = SUCCESS;
    if (f) fclose(f);
    mig->mig_place = (int)index;
    *out = mig;
    return code;
}

int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *out) {
    *out = d->gi;
    return check(d);
}

int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *out) {
    *out = d->ci;
    return check(d);
}
