/* A stand-in for a plugin that computes over several processes, made of one that does not: each process computes the replicas of
   all of them, on as many devices of the CPU plugin, and shows only its own. What the others put on their devices, and what they
   execute it with, it is told through files; so a process that does not execute lets the others wait, as with real collectives.
   $MIRROR_PLUGIN: the CPU plugin, $MIRROR_DIR: a folder for the files, $MIRROR_DEVICES: devices of all processes together. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pjrt_c_api.h"

enum { NAME = 64, DIMS = 8 };
static const PJRT_Api* real;
static PJRT_Api api;
static PJRT_Client* client;
static PJRT_Device* const* all;
static size_t devices, each, node, nodes, uploads, executions;

static void must(int holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "mirror %zu: %s\n", node, what);
  abort();
}

/* ---- Files: written at once, waited for as long as it takes. ---- */

static void path_of(char* path, const char* name, const char* end) {
  snprintf(path, 4096, "%s/%s%s", getenv("MIRROR_DIR"), name, end);
}

static void tell(const char* name, const void* head, size_t head_size, const void* data, size_t size) {
  char path[4096], whole[4096];
  path_of(path, name, ".tmp");
  path_of(whole, name, "");
  FILE* file = fopen(path, "wb");
  must(file != NULL, path);
  must(fwrite(head, 1, head_size, file) == head_size && fwrite(data, 1, size, file) == size, "fwrite");
  must(fclose(file) == 0 && rename(path, whole) == 0, "rename");
}

static char* told(const char* name) {
  char path[4096];
  FILE* file;
  path_of(path, name, "");
  while (!(file = fopen(path, "rb"))) usleep(1000);
  fseek(file, 0, SEEK_END);
  size_t size = ftell(file);
  rewind(file);
  char* data = malloc(size + 1);
  must(fread(data, 1, size, file) == size, "fread");
  fclose(file);
  return data;
}

/* ---- Buffers by name: an upload's is its number in its process, a result's the execution, device and place. ---- */

struct Named {
  char name[NAME];
  PJRT_Buffer* buffer;
};
static struct Named* known;
static size_t count, room;

static void remember(const char* name, PJRT_Buffer* buffer) {
  if (count == room) known = realloc(known, (room = 2 * room + 64) * sizeof *known);
  snprintf(known[count].name, NAME, "%s", name);
  known[count++].buffer = buffer;
}

static const char* name_of(PJRT_Buffer* buffer) {
  for (size_t i = count; i-- > 0;)
    if (known[i].buffer == buffer) return known[i].name;
  must(0, "a buffer without a name");
  return NULL;
}

struct Upload {
  PJRT_Buffer_Type type;
  size_t num_dims;
  int64_t dims[DIMS];
};

static size_t bytes_of(const struct Upload* upload) {
  size_t size = 1;
  switch (upload->type) {
    case PJRT_Buffer_Type_PRED: case PJRT_Buffer_Type_S8: case PJRT_Buffer_Type_U8: break;
    case PJRT_Buffer_Type_S32: case PJRT_Buffer_Type_U32: case PJRT_Buffer_Type_F32: size = 4; break;
    case PJRT_Buffer_Type_S64: case PJRT_Buffer_Type_U64: size = 8; break;
    default: must(0, "an element type without a size");
  }
  for (size_t i = 0; i < upload->num_dims; i++) size *= upload->dims[i];
  return size;
}

/* The copy of another process's buffer. */
static PJRT_Buffer* mirrored(const char* name, PJRT_Device* device) {
  for (size_t i = count; i-- > 0;)
    if (strcmp(known[i].name, name) == 0) return known[i].buffer;
  char* file = told(name);
  struct Upload* upload = (struct Upload*)file;
  PJRT_Client_BufferFromHostBuffer_Args args = {
    .struct_size = PJRT_Client_BufferFromHostBuffer_Args_STRUCT_SIZE, .client = client, .data = file + sizeof *upload,
    .type = upload->type, .dims = upload->dims, .num_dims = upload->num_dims,
    .host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableOnlyDuringCall, .device = device};
  must(!real->PJRT_Client_BufferFromHostBuffer(&args), "upload");
  PJRT_Event_Destroy_Args done = {.struct_size = PJRT_Event_Destroy_Args_STRUCT_SIZE, .event = args.done_with_host_buffer};
  real->PJRT_Event_Destroy(&done);
  remember(name, args.buffer);
  free(file);
  return args.buffer;
}

static PJRT_Error* upload(PJRT_Client_BufferFromHostBuffer_Args* args) {
  char name[NAME];
  struct Upload head = {args->type, args->num_dims, {0}};
  must(args->num_dims <= DIMS, "dimensions");
  memcpy(head.dims, args->dims, args->num_dims * sizeof *args->dims);
  snprintf(name, NAME, "upload-%zu-%zu", node, uploads++);
  tell(name, &head, sizeof head, args->data, bytes_of(&head));
  PJRT_Error* error = real->PJRT_Client_BufferFromHostBuffer(args);
  if (!error) remember(name, args->buffer);
  return error;
}

static PJRT_Error* destroy(PJRT_Buffer_Destroy_Args* args) {
  for (size_t i = count; i-- > 0;)
    if (known[i].buffer == args->buffer) {
      known[i] = known[--count];
      break;
    }
  return real->PJRT_Buffer_Destroy(args);
}

/* ---- Executions ---- */

static size_t outputs_of(PJRT_LoadedExecutable* executable) {
  PJRT_LoadedExecutable_GetExecutable_Args inner = {
    .struct_size = PJRT_LoadedExecutable_GetExecutable_Args_STRUCT_SIZE, .loaded_executable = executable};
  must(!real->PJRT_LoadedExecutable_GetExecutable(&inner), "executable");
  PJRT_Executable_NumOutputs_Args outputs = {
    .struct_size = PJRT_Executable_NumOutputs_Args_STRUCT_SIZE, .executable = inner.executable};
  must(!real->PJRT_Executable_NumOutputs(&outputs), "outputs");
  PJRT_Executable_Destroy_Args end = {.struct_size = PJRT_Executable_Destroy_Args_STRUCT_SIZE, .executable = inner.executable};
  real->PJRT_Executable_Destroy(&end);
  return outputs.num_outputs;
}

static PJRT_Error* execute(PJRT_LoadedExecutable_Execute_Args* args) {
  char name[NAME], (*names)[NAME] = calloc(each * args->num_args, NAME);
  size_t n = args->num_args, number = executions++, num_outputs = outputs_of(args->executable);
  must(args->num_devices == each, "an execution on other devices than this process's");
  for (size_t i = 0; i < each * n; i++) snprintf(names[i], NAME, "%s", name_of(args->argument_lists[i / n][i % n]));
  snprintf(name, NAME, "execution-%zu-%zu", node, number);
  tell(name, names, each * n * NAME, "", 0);
  free(names);

  PJRT_Buffer* const** lists = calloc(devices, sizeof *lists);
  PJRT_Buffer*** outputs = calloc(devices, sizeof *outputs);
  for (size_t of = 0; of < nodes; of++) {
    snprintf(name, NAME, "execution-%zu-%zu", of, number);
    names = of == node ? NULL : (char(*)[NAME])told(name);
    for (size_t at = 0; at < each; at++) {
      size_t device = of * each + at;
      PJRT_Buffer** list = calloc(n, sizeof *list);
      for (size_t i = 0; i < n; i++)
        list[i] = of == node ? args->argument_lists[at][i] : mirrored(names[at * n + i], all[device]);
      lists[device] = list;
      outputs[device] = of == node ? args->output_lists[at] : calloc(num_outputs, sizeof *outputs[device]);
    }
    free(names);
  }
  PJRT_LoadedExecutable_Execute_Args whole = *args;
  whole.argument_lists = (PJRT_Buffer* const* const*)lists;
  whole.output_lists = outputs;
  whole.num_devices = devices;
  PJRT_Error* error = real->PJRT_LoadedExecutable_Execute(&whole);
  for (size_t device = 0; device < devices; device++) {
    for (size_t i = 0; !error && i < num_outputs; i++) {
      snprintf(name, NAME, "result-%zu-%zu-%zu", number, device, i);
      remember(name, outputs[device][i]);
    }
    free((void*)lists[device]);
    if (device / each != node) free(outputs[device]);
  }
  free(lists);
  free(outputs);
  return error;
}

static PJRT_Error* executable_devices(PJRT_LoadedExecutable_AddressableDevices_Args* args) {
  PJRT_Error* error = real->PJRT_LoadedExecutable_AddressableDevices(args);
  must(error || args->num_addressable_devices == devices, "a program for other devices than those of all processes");
  args->addressable_devices += node * each;
  args->num_addressable_devices = each;
  return error;
}

/* ---- The client and its devices ---- */

static PJRT_Error* own_devices(PJRT_Client_AddressableDevices_Args* args) {
  args->addressable_devices = all + node * each;
  args->num_addressable_devices = each;
  return NULL;
}

static PJRT_Error* process_index(PJRT_Client_ProcessIndex_Args* args) {
  args->process_index = (int)node;
  return NULL;
}

static PJRT_Error* device_process_index(PJRT_DeviceDescription_ProcessIndex_Args* args) {
  PJRT_DeviceDescription_Id_Args id = {
    .struct_size = PJRT_DeviceDescription_Id_Args_STRUCT_SIZE, .device_description = args->device_description};
  PJRT_Error* error = real->PJRT_DeviceDescription_Id(&id);
  args->process_index = id.id / (int)each;
  return error;
}

static PJRT_Error* create(PJRT_Client_Create_Args* args) {
  PJRT_NamedValue count = {.struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = "cpu_device_count", .name_size = 16,
    .type = PJRT_NamedValue_kInt64, .value_size = 1};
  for (size_t i = 0; i < args->num_options; i++) {
    const PJRT_NamedValue* value = &args->create_options[i];
    if (value->name_size == 7 && memcmp(value->name, "node_id", 7) == 0) node = value->int64_value;
    if (value->name_size == 9 && memcmp(value->name, "num_nodes", 9) == 0) nodes = value->int64_value;
  }
  must(nodes > 0 && devices % nodes == 0 && args->kv_get_callback && args->kv_put_callback, "one of several processes");
  each = devices / nodes;
  count.int64_value = devices;
  PJRT_Client_Create_Args own = *args;
  own.create_options = &count;
  own.num_options = 1;
  PJRT_Error* error = real->PJRT_Client_Create(&own);
  if (error) return error;
  args->client = client = own.client;
  PJRT_Client_Devices_Args list = {.struct_size = PJRT_Client_Devices_Args_STRUCT_SIZE, .client = client};
  must(!real->PJRT_Client_Devices(&list) && list.num_devices == devices, "devices");
  all = list.devices;
  return NULL;
}

const PJRT_Api* GetPjrtApi(void) {
  void* library = dlopen(getenv("MIRROR_PLUGIN"), RTLD_NOW | RTLD_LOCAL);
  must(library != NULL, dlerror());
  real = ((const PJRT_Api* (*)(void))dlsym(library, "GetPjrtApi"))();
  must(real->struct_size >= PJRT_Api_STRUCT_SIZE, "a plugin that is older than the header");
  devices = atoi(getenv("MIRROR_DEVICES"));
  memcpy(&api, real, PJRT_Api_STRUCT_SIZE);
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.PJRT_Client_Create = create;
  api.PJRT_Client_AddressableDevices = own_devices;
  api.PJRT_Client_ProcessIndex = process_index;
  api.PJRT_DeviceDescription_ProcessIndex = device_process_index;
  api.PJRT_Client_BufferFromHostBuffer = upload;
  api.PJRT_Buffer_Destroy = destroy;
  api.PJRT_LoadedExecutable_AddressableDevices = executable_devices;
  api.PJRT_LoadedExecutable_Execute = execute;
  return &api;
}
