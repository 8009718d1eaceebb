/* A stand-in for the TPU runtime on a host with four chips, made of the CPU plugin. Chips are listed in the reverse order of their
   numbers, and arrays are read back with reversed axes unless the caller asks for a layout.
   $HOST_PLUGIN: the CPU plugin. $HOST_PROCESS: number of this host in a slice of two hosts; alone if absent.
   $HOST_REFUSES, $HOST_REFUSES_LOAD: the error of starting the client or of loading. $HOST_HANGS: the client never starts.
   $HOST_FAILS=N: execution N fails. $HOST_PREEMPTS="N execute" or "N all": during execution N the process gets SIGTERM; from
   then on executions fail, or all calls. */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pjrt_c_api.h"

enum { CHIPS = 4, AXES = 16, ERRORS = 1024 };
static const PJRT_Api* real;
static PJRT_Api api;
static PJRT_Device* own[CHIPS];
static size_t process;
static atomic_int executions, lost, lost_all;

/* ---- Errors: those of this file, and the CPU plugin's. ---- */

static struct Own { PJRT_Error_Code code; const char* text; } errors[ERRORS];
static atomic_int made;

static PJRT_Error* fail(PJRT_Error_Code code, const char* text) {
  struct Own* error = &errors[made++ % ERRORS];
  *error = (struct Own){code, text};
  return (PJRT_Error*)error;
}

static struct Own* is_own(const PJRT_Error* error) {
  struct Own* own = (struct Own*)error;
  return own >= errors && own < errors + ERRORS ? own : NULL;
}

static void error_destroy(PJRT_Error_Destroy_Args* args) {
  if (!is_own(args->error)) real->PJRT_Error_Destroy(args);
}

static void error_message(PJRT_Error_Message_Args* args) {
  struct Own* own = is_own(args->error);
  if (!own) return real->PJRT_Error_Message(args);
  args->message = own->text;
  args->message_size = strlen(own->text);
}

static PJRT_Error* error_code(PJRT_Error_GetCode_Args* args) {
  struct Own* own = is_own(args->error);
  if (!own) return real->PJRT_Error_GetCode(args);
  args->code = own->code;
  return NULL;
}

/* ---- The client and its chips ---- */

static PJRT_Error* initialize(PJRT_Plugin_Initialize_Args* args) {
  const char* refuses = getenv("HOST_REFUSES_LOAD");
  return refuses ? fail(PJRT_Error_Code_ABORTED, refuses) : real->PJRT_Plugin_Initialize(args);
}

static PJRT_Error* create(PJRT_Client_Create_Args* args) {
  const char *refuses = getenv("HOST_REFUSES"), *number = getenv("HOST_PROCESS");
  if (refuses) return fail(PJRT_Error_Code_UNAVAILABLE, refuses);
  while (getenv("HOST_HANGS")) sleep(1);
  size_t hosts = number ? 2 : 1;
  process = number ? atoi(number) : 0;
  PJRT_NamedValue count = {.struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = "cpu_device_count", .name_size = 16,
    .type = PJRT_NamedValue_kInt64, .value_size = 1, .int64_value = CHIPS * hosts};
  PJRT_Client_Create_Args all = *args;
  all.create_options = &count;
  all.num_options = 1;
  PJRT_Error* error = real->PJRT_Client_Create(&all);
  if (error) return error;
  args->client = all.client;
  PJRT_Client_Devices_Args list = {.struct_size = PJRT_Client_Devices_Args_STRUCT_SIZE, .client = all.client};
  error = real->PJRT_Client_Devices(&list);
  for (size_t i = 0; !error && i < CHIPS; i++) own[i] = list.devices[CHIPS * process + CHIPS - 1 - i];
  return error;
}

static PJRT_Error* own_devices(PJRT_Client_AddressableDevices_Args* args) {
  args->addressable_devices = own;
  args->num_addressable_devices = CHIPS;
  return NULL;
}

static PJRT_Error* process_index(PJRT_Client_ProcessIndex_Args* args) {
  args->process_index = (int)process;
  return NULL;
}

static PJRT_Error* process_of_chip(PJRT_DeviceDescription_ProcessIndex_Args* args) {
  PJRT_DeviceDescription_Id_Args id = {
    .struct_size = PJRT_DeviceDescription_Id_Args_STRUCT_SIZE, .device_description = args->device_description};
  PJRT_Error* error = real->PJRT_DeviceDescription_Id(&id);
  args->process_index = id.id / CHIPS;
  return error;
}

static PJRT_Error* platform(PJRT_Client_PlatformName_Args* args) {
  args->platform_name = "tpu";
  args->platform_name_size = 3;
  return NULL;
}

static PJRT_Error* kind(PJRT_DeviceDescription_Kind_Args* args) {
  args->device_kind = "TPU v5 lite";
  args->device_kind_size = strlen(args->device_kind);
  return NULL;
}

/* ---- Work ---- */

static PJRT_Error* gone(void) { return fail(PJRT_Error_Code_UNAVAILABLE, "the chip was taken away"); }

static PJRT_Error* execute(PJRT_LoadedExecutable_Execute_Args* args) {
  int number = ++executions, at = 0;
  char what[16] = "";
  const char *fails = getenv("HOST_FAILS"), *preempts = getenv("HOST_PREEMPTS");
  if (lost) return gone();
  if (fails && atoi(fails) == number) return fail(PJRT_Error_Code_INTERNAL, "the chip has an uncorrectable memory error");
  if (preempts && sscanf(preempts, "%d %15s", &at, what) == 2 && at == number) {
    kill(getpid(), SIGTERM);
    usleep(500000);
    lost = 1;
    lost_all = strcmp(what, "all") == 0;
  }
  return real->PJRT_LoadedExecutable_Execute(args);
}

static PJRT_Error* upload(PJRT_Client_BufferFromHostBuffer_Args* args) {
  return lost_all ? gone() : real->PJRT_Client_BufferFromHostBuffer(args);
}

static PJRT_Error* read_back(PJRT_Buffer_ToHostBuffer_Args* args) {
  if (lost_all) return gone();
  if (args->host_layout) return real->PJRT_Buffer_ToHostBuffer(args);
  PJRT_Buffer_Dimensions_Args dims = {.struct_size = PJRT_Buffer_Dimensions_Args_STRUCT_SIZE, .buffer = args->src};
  PJRT_Error* error = real->PJRT_Buffer_Dimensions(&dims);
  if (error) return error;
  int64_t order[AXES];
  for (size_t i = 0; i < dims.num_dims; i++) order[i] = i;
  PJRT_Buffer_MemoryLayout layout = {
    .struct_size = PJRT_Buffer_MemoryLayout_STRUCT_SIZE, .type = PJRT_Buffer_MemoryLayout_Type_Tiled};
  layout.tiled = (PJRT_Buffer_MemoryLayout_Tiled){
    .struct_size = PJRT_Buffer_MemoryLayout_Tiled_STRUCT_SIZE, .minor_to_major = order, .minor_to_major_size = dims.num_dims};
  PJRT_Buffer_ToHostBuffer_Args reversed = *args;
  reversed.host_layout = &layout;
  error = real->PJRT_Buffer_ToHostBuffer(&reversed);
  args->event = reversed.event;
  args->dst_size = reversed.dst_size;
  return error;
}

const PJRT_Api* GetPjrtApi(void) {
  void* library = dlopen(getenv("HOST_PLUGIN"), RTLD_NOW | RTLD_LOCAL);
  if (!library) abort();
  real = ((const PJRT_Api* (*)(void))dlsym(library, "GetPjrtApi"))();
  memcpy(&api, real, PJRT_Api_STRUCT_SIZE);
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.PJRT_Error_Destroy = error_destroy;
  api.PJRT_Error_Message = error_message;
  api.PJRT_Error_GetCode = error_code;
  api.PJRT_Plugin_Initialize = initialize;
  api.PJRT_Client_Create = create;
  api.PJRT_Client_AddressableDevices = own_devices;
  api.PJRT_Client_ProcessIndex = process_index;
  api.PJRT_Client_PlatformName = platform;
  api.PJRT_DeviceDescription_ProcessIndex = process_of_chip;
  api.PJRT_DeviceDescription_Kind = kind;
  api.PJRT_LoadedExecutable_Execute = execute;
  api.PJRT_Client_BufferFromHostBuffer = upload;
  api.PJRT_Buffer_ToHostBuffer = read_back;
  return &api;
}
