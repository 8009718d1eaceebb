/* A plugin with a profiler, made of one without: it records how many executions begin between its start and its stop, as text.
   $TRACED_PLUGIN: the CPU plugin; $TRACED_REFUSES: a function of the profiler that is to fail. The structs are those of the
   profiler extension's headers, version 1. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pjrt_c_api.h"

struct Failed { size_t struct_size; void* priv; const char* error; const char* message; size_t message_size; };
struct Code { size_t struct_size; void* priv; const char* error; int code; };
struct Created { size_t struct_size; const char* options; size_t options_size; int* profiler; };
struct Handle { size_t struct_size; int* profiler; };
struct Collected { size_t struct_size; int* profiler; uint8_t* buffer; size_t size; };

static const PJRT_Api* real;
static PJRT_Api api;
static atomic_int running, executions;

static char* refused(const char* function) {
  const char* refuses = getenv("TRACED_REFUSES");
  return refuses && strcmp(refuses, function) == 0 ? strdup(function) : NULL;
}

static void error_destroy(struct Failed* args) { free((void*)args->error); }

static void error_message(struct Failed* args) {
  args->message = args->error;
  args->message_size = strlen(args->error);
}

static void* error_code(struct Code* args) {
  args->code = PJRT_Error_Code_UNIMPLEMENTED;
  return NULL;
}

static void* create(struct Created* args) {
  args->profiler = malloc(sizeof(int));
  return refused("create");
}

static void* destroy(struct Handle* args) {
  free(args->profiler);
  return NULL;
}

static void* start(struct Handle* args) {
  char* error = refused("start");
  running = !error;
  return error;
}

static void* stop(struct Handle* args) {
  running = 0;
  return refused("stop");
}

static void* collect(struct Collected* args) {
  char text[32];
  size_t size = snprintf(text, sizeof text, "%d executions", executions);
  if (args->buffer) memcpy(args->buffer, text, size);
  args->size = size;
  return refused("collect");
}

static struct {
  size_t struct_size;
  void* priv;
  void *error_destroy, *error_message, *error_code, *create, *destroy, *start, *stop, *collect;
} functions = {sizeof functions, NULL, error_destroy, error_message, error_code, create, destroy, start, stop, collect};

static struct {
  PJRT_Extension_Base base;
  void* profiler;
  int64_t context;
} extension = {{sizeof extension, PJRT_Extension_Type_Profiler, NULL}, &functions, 0};

static PJRT_Error* execute(PJRT_LoadedExecutable_Execute_Args* args) {
  executions += running;
  return real->PJRT_LoadedExecutable_Execute(args);
}

const PJRT_Api* GetPjrtApi(void) {
  void* library = dlopen(getenv("TRACED_PLUGIN"), RTLD_NOW | RTLD_LOCAL);
  if (!library) abort();
  real = ((const PJRT_Api* (*)(void))dlsym(library, "GetPjrtApi"))();
  memcpy(&api, real, PJRT_Api_STRUCT_SIZE);
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  extension.base.next = api.extension_start;
  api.extension_start = &extension.base;
  api.PJRT_LoadedExecutable_Execute = execute;
  return &api;
}
