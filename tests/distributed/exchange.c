/* A plugin that only starts clients, and of them only what needs the other processes: it exchanges values through the callbacks,
   as the plugin for GPUs exchanges what devices each process has, and then fails with a report. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pjrt_c_api.h"

struct PJRT_Error {
  PJRT_Error_Code code;
  char text[4000];
};

static PJRT_Error* make(PJRT_Error_Code code, const char* text, size_t size) {
  PJRT_Error* error = calloc(1, sizeof *error);
  error->code = code;
  memcpy(error->text, text, size < sizeof error->text ? size : sizeof error->text - 1);
  return error;
}
static PJRT_CallbackError callback = make;

static void error_destroy(PJRT_Error_Destroy_Args* args) { free(args->error); }
static void error_message(PJRT_Error_Message_Args* args) {
  args->message = args->error->text;
  args->message_size = strlen(args->error->text);
}
static PJRT_Error* error_code(PJRT_Error_GetCode_Args* args) {
  args->code = args->error->code;
  return NULL;
}
static PJRT_Error* initialize(PJRT_Plugin_Initialize_Args* args) { return NULL; }

static PJRT_Client_Create_Args* client;
static char report[4000];

static void say(const char* text, long value) {
  size_t used = strlen(report);
  snprintf(report + used, sizeof report - used, "%s %ld; ", text, value);
}

/* Code of an error, which is freed; 0 for none. */
static long code(PJRT_Error* error) {
  long code = error ? error->code : 0;
  free(error);
  return code;
}

static long put(const char* key, size_t key_size, const char* value, size_t value_size) {
  PJRT_KeyValuePutCallback_Args args = {.struct_size = PJRT_KeyValuePutCallback_Args_STRUCT_SIZE, .key = key, .key_size = key_size,
    .value = value, .value_size = value_size, .callback_error = &callback, .user_arg = client->kv_put_user_arg};
  return code(client->kv_put_callback(&args));
}

/* Code, or 0 when the value is the one expected, or -1. */
static long get(const char* key, size_t key_size, int timeout_in_ms, const char* expected, size_t size) {
  PJRT_KeyValueGetCallback_Args args = {.struct_size = PJRT_KeyValueGetCallback_Args_STRUCT_SIZE, .key = key, .key_size = key_size,
    .timeout_in_ms = timeout_in_ms, .callback_error = &callback, .user_arg = client->kv_get_user_arg};
  long failed = code(client->kv_get_callback(&args));
  if (failed) return failed;
  long same = args.value_size == size && memcmp(args.value, expected, size) == 0;
  args.value_deleter_callback(args.value);
  return same ? 0 : -1;
}

static long try_get(const char* key, size_t key_size, const char* expected, size_t size) {
  PJRT_KeyValueTryGetCallback_Args args = {.struct_size = PJRT_KeyValueTryGetCallback_Args_STRUCT_SIZE, .key = key,
    .key_size = key_size, .callback_error = &callback, .user_arg = client->kv_try_get_user_arg};
  long failed = code(client->kv_try_get_callback(&args));
  if (failed) return failed;
  long same = args.value_size == size && memcmp(args.value, expected, size) == 0;
  args.value_deleter_callback(args.value);
  return same ? 0 : -1;
}

static int64_t option(const char* name) {
  for (size_t i = 0; i < client->num_options; i++) {
    const PJRT_NamedValue* value = &client->create_options[i];
    if (value->name_size == strlen(name) && memcmp(value->name, name, value->name_size) == 0) return value->int64_value;
  }
  return -1;
}

enum { LARGE = 1000000, TOO_LARGE = 4000000, KEYS = 10, THREADS = 4 };
static int64_t node, nodes;

static char* pattern(int64_t seed) {
  char* bytes = malloc(LARGE);
  for (size_t i = 0; i < LARGE; i++) bytes[i] = (char)(i * 31 + i / 251 + seed);
  return bytes;
}

/* Thread `of` exchanges keys with that of the same number in the other processes. */
static void* exchange(void* of) {
  long wrong = 0;
  for (int i = 0; i < KEYS; i++) {
    char key[64], value[64];
    int k = snprintf(key, sizeof key, "%ld/%d/%ld", (long)of, i, (long)node);
    int v = snprintf(value, sizeof value, "%ld", (long)node * 100 + i);
    wrong |= put(key, k, value, v);
    for (int64_t other = 0; other < nodes; other++) {
      k = snprintf(key, sizeof key, "%ld/%d/%ld", (long)of, i, (long)other);
      v = snprintf(value, sizeof value, "%ld", (long)other * 100 + i);
      wrong |= get(key, k, 60000, value, v);
    }
  }
  return (void*)wrong;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static PJRT_Error* create(PJRT_Client_Create_Args* args) {
  client = args;
  node = option("node_id");
  nodes = option("num_nodes");
  say("node", node);
  say("of", nodes);

  /* Keys and values of any bytes, up to large ones, both ways. */
  char key[] = {'t', 0, 'x', (char)node}, *own = pattern(node);
  say("put", put(key, sizeof key, own, LARGE));
  say("again", put("empty", 5, "", 0));
  for (int64_t other = 0; other < nodes; other++) {
    char* expected = pattern(other);
    key[3] = (char)other;
    say("get", get(key, sizeof key, 60000, expected, LARGE));
    say("try", try_get(key, sizeof key, expected, LARGE));
    free(expected);
  }
  say("empty", get("empty", 5, 1000, "", 0));

  say("absent", try_get("absent", 6, "", 0));
  double started = seconds();
  say("late", get("absent", 6, 300, "", 0));
  say("in time", seconds() - started > 0.29 && seconds() - started < 20);
  char* too_large = calloc(1, TOO_LARGE);
  say("too large", put("too large", 9, too_large, TOO_LARGE));

  pthread_t threads[THREADS];
  long wrong = 0;
  for (long of = 0; of < THREADS; of++) pthread_create(&threads[of], NULL, exchange, (void*)of);
  for (int of = 0; of < THREADS; of++) {
    void* result;
    pthread_join(threads[of], &result);
    wrong |= (long)result;
  }
  say("threads", wrong);
  free(too_large);
  free(own);

  /* Whoever fails first ends the others, so nobody does before all have reported. */
  fprintf(stderr, "exchange: %s\n", report);
  char done[] = {'d', (char)node};
  put(done, sizeof done, "", 0);
  for (int64_t other = 0; other < nodes; other++) {
    done[1] = (char)other;
    say("done", get(done, sizeof done, 60000, "", 0));
  }
  return make(PJRT_Error_Code_UNIMPLEMENTED, report, strlen(report));
}

static PJRT_Api api = {
  .struct_size = PJRT_Api_STRUCT_SIZE,
  .pjrt_api_version = {.struct_size = PJRT_Api_Version_STRUCT_SIZE, .major_version = PJRT_API_MAJOR,
                       .minor_version = PJRT_API_MINOR},
  .PJRT_Error_Destroy = error_destroy,
  .PJRT_Error_Message = error_message,
  .PJRT_Error_GetCode = error_code,
  .PJRT_Plugin_Initialize = initialize,
  .PJRT_Client_Create = create,
};
const PJRT_Api* GetPjrtApi(void) { return &api; }
