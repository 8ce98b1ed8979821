/* Runs a SavedModel of panoptic-tf from C, without Python: the smallest program that embeds one.

   panoptic <folder of a version> <photo.jpg|photo.png> <prefix of outputs> [signature]

   prints the table of segments and writes <prefix>category.pgm and <prefix>instance.pgm (16 bits).
   The names of tensors are read from the MetaGraphDef that comes with the session; a signature is
   a map from the keys that docs/serving.md lists to such names. Default signature: image_bytes. */

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

/* Field numbers of meta_graph.proto. */
enum { META_GRAPH_SIGNATURES = 5, SIGNATURE_INPUTS = 1, SIGNATURE_OUTPUTS = 2, TENSOR_NAME = 1 };
enum { MAP_KEY = 1, MAP_VALUE = 2 };

enum { VALID, IMAGE_SIZE, CATEGORY_MASK, INSTANCE_MASK, NUM_SEGMENTS, CATEGORY, INSTANCE, SCORE,
       AREA, NUM_OUTPUTS };
static const struct {
  const char *key;
  TF_DataType type;
  int rank;
} OUTPUTS[NUM_OUTPUTS] = {
    {"valid", TF_BOOL, 1},           {"image_size", TF_INT32, 2},
    {"category_mask", TF_INT32, 3},  {"instance_mask", TF_INT32, 3},
    {"num_segments", TF_INT32, 1},   {"segment_category", TF_INT32, 2},
    {"segment_instance", TF_INT32, 2}, {"segment_score", TF_FLOAT, 2},
    {"segment_area", TF_INT32, 2},
};

typedef struct {
  const uint8_t *data;
  size_t size;
} Bytes;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("panoptic: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail("%s: %s", what, TF_Message(status));
}

static Bytes read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  uint8_t *data = NULL;
  size_t size = 0, capacity = 0;
  if (!file) fail("%s cannot be opened", path);
  do {
    capacity = capacity ? 2 * capacity : 1 << 16;
    data = realloc(data, capacity);
    if (!data) fail("%s: out of memory", path);
    size += fread(data + size, 1, capacity - size, file);
  } while (size == capacity);
  if (ferror(file)) fail("%s cannot be read", path);
  fclose(file);
  return (Bytes){data, size};
}

/* Protocol buffers: a message is a row of fields, each with a number and a kind. */

static uint64_t read_varint(Bytes *message) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (!message->size) break;
    uint8_t byte = *message->data;
    message->data++, message->size--;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("the MetaGraphDef is malformed");
  return 0;
}

/* Takes the next field off the message; its bytes are empty where it is a number. */
static int next_field(Bytes *message, int *number, Bytes *content) {
  uint64_t tag, size = 0;
  if (!message->size) return 0;
  tag = read_varint(message);
  *number = (int)(tag >> 3);
  switch (tag & 7) {
    case 0: read_varint(message); break;
    case 1: size = 8; break;
    case 2: size = read_varint(message); break;
    case 5: size = 4; break;
    default: fail("the MetaGraphDef is malformed");
  }
  if (size > message->size) fail("the MetaGraphDef is malformed");
  *content = (Bytes){message->data, (size_t)size};
  message->data += size, message->size -= size;
  return 1;
}

static int find_field(Bytes message, int wanted, Bytes *content) {
  int number;
  while (next_field(&message, &number, content))
    if (number == wanted) return 1;
  return 0;
}

static int equals(Bytes bytes, const char *text) {
  return bytes.size == strlen(text) && !memcmp(bytes.data, text, bytes.size);
}

static int find_in_map(Bytes message, int map, const char *key, Bytes *value) {
  int number;
  Bytes entry, name;
  while (next_field(&message, &number, &entry))
    if (number == map && find_field(entry, MAP_KEY, &name) && equals(name, key))
      return find_field(entry, MAP_VALUE, value);
  return 0;
}

/* Of an operation's output, as in "name:2": 0 where there is no colon. */
static int parse_index(const char *colon, const char *key) {
  char *end;
  if (!colon) return 0;
  errno = 0;
  long index = strtol(colon + 1, &end, 10);
  if (end == colon + 1 || *end || errno || index < 0 || index > INT_MAX)
    fail("the tensor of %s has no number from 0 behind its colon: %s", key, colon);
  return (int)index;
}

/* "name:2" of a signature's input or output as an output of the graph. */
static TF_Output find_tensor(TF_Graph *graph, Bytes signature, int map, const char *key) {
  Bytes info, name;
  char operation[1024];
  if (!find_in_map(signature, map, key, &info) || !find_field(info, TENSOR_NAME, &name))
    fail("the signature has no tensor %s", key);
  if (name.size >= sizeof operation) fail("the name of %s is too long", key);
  memcpy(operation, name.data, name.size);
  operation[name.size] = 0;
  char *colon = strrchr(operation, ':');
  int index = parse_index(colon, key);
  if (colon) *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, operation), index};
  if (!output.oper) fail("the graph has no operation %s", operation);
  if (index >= TF_OperationNumOutputs(output.oper))
    fail("the operation %s has no output %d for %s", operation, index, key);
  return output;
}

static void release_string(void *data, size_t size, void *unused) {
  (void)size, (void)unused;
  TF_StringDealloc(data);
  free(data);
}

/* string [1]. */
static TF_Tensor *string_tensor(Bytes content) {
  const int64_t shape[] = {1};
  TF_TString *text = malloc(sizeof *text);
  if (!text) fail("out of memory");
  TF_StringInit(text);
  TF_StringCopy(text, (const char *)content.data, content.size);
  return TF_NewTensor(TF_STRING, shape, 1, text, sizeof *text, release_string, NULL);
}

/* Fails where a value of the top left height x width does not fit 16 bits. */
static void check_mask(const char *key, const TF_Tensor *mask, int height, int width) {
  const int32_t *values = TF_TensorData(mask);
  int64_t stride = TF_Dim(mask, 2);
  for (int y = 0; y < height; y++) {
    for (int x = 0; x < width; x++) {
      int32_t value = values[y * stride + x];
      if (value < 0 || value > 65535) fail("%s: %d does not fit 16 bits", key, (int)value);
    }
  }
}

/* The top left height x width of a mask as a 16-bit PGM, whole or not at all. */
static void write_pgm(const char *prefix, const char *name, const TF_Tensor *mask, int height,
                      int width) {
  char path[4096], temporary[4096 + 4];
  const int32_t *values = TF_TensorData(mask);
  int64_t stride = TF_Dim(mask, 2);
  if (snprintf(path, sizeof path, "%s%s.pgm", prefix, name) >= (int)sizeof path)
    fail("%s is too long", prefix);
  snprintf(temporary, sizeof temporary, "%s.tmp", path);
  FILE *file = fopen(temporary, "wb");
  if (!file) fail("%s cannot be written", temporary);
  fprintf(file, "P5\n%d %d\n65535\n", width, height);
  for (int y = 0; y < height; y++) {
    for (int x = 0; x < width; x++) {
      int32_t value = values[y * stride + x];
      fputc(value >> 8, file);
      fputc(value & 255, file);
    }
  }
  int failed = ferror(file);
  if (fclose(file) || failed || rename(temporary, path)) {
    remove(temporary);
    fail("%s cannot be written", path);
  }
}

static void print_segments(TF_Tensor *const *values) {
  const int32_t *category = TF_TensorData(values[CATEGORY]);
  const int32_t *instance = TF_TensorData(values[INSTANCE]);
  const int32_t *area = TF_TensorData(values[AREA]);
  const float *score = TF_TensorData(values[SCORE]);
  int count = *(const int32_t *)TF_TensorData(values[NUM_SEGMENTS]);
  for (int i = CATEGORY; i <= AREA; i++)
    if (count < 0 || count > TF_Dim(values[i], 1))
      fail("num_segments is %d, and %s has %d rows", count, OUTPUTS[i].key,
           (int)TF_Dim(values[i], 1));
  printf("%8s %8s %8s %8s\n", "category", "instance", "score", "area");
  for (int i = 0; i < count; i++)
    printf("%8d %8d %8.4f %8d\n", (int)category[i], (int)instance[i], score[i], (int)area[i]);
  if (fflush(stdout) || ferror(stdout)) fail("standard output cannot be written");
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 5) {
    fputs("usage: panoptic <folder of a version> <photo> <prefix of outputs> [signature]\n", stderr);
    return 2;
  }
  const char *const tags[] = {"serve"};
  const char *name = argc == 5 ? argv[4] : "image_bytes";
  Bytes photo = read_file(argv[2]);

  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Graph *graph = TF_NewGraph();
  TF_Buffer *meta_graph = TF_NewBuffer();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph,
                                                     meta_graph, status);
  check(status, argv[1]);

  Bytes signature;
  if (!find_in_map((Bytes){meta_graph->data, meta_graph->length}, META_GRAPH_SIGNATURES, name,
                   &signature))
    fail("%s has no signature %s", argv[1], name);
  TF_Output input = find_tensor(graph, signature, SIGNATURE_INPUTS, "image_bytes");
  TF_Output outputs[NUM_OUTPUTS];
  for (int i = 0; i < NUM_OUTPUTS; i++)
    outputs[i] = find_tensor(graph, signature, SIGNATURE_OUTPUTS, OUTPUTS[i].key);

  TF_Tensor *content = string_tensor(photo), *values[NUM_OUTPUTS];
  TF_SessionRun(session, NULL, &input, &content, 1, outputs, values, NUM_OUTPUTS, NULL, 0, NULL,
                status);
  check(status, argv[2]);
  for (int i = 0; i < NUM_OUTPUTS; i++)
    if (TF_TensorType(values[i]) != OUTPUTS[i].type || TF_NumDims(values[i]) != OUTPUTS[i].rank ||
        TF_Dim(values[i], 0) != 1)
      fail("the output %s is not of the type and rank of docs/serving.md", OUTPUTS[i].key);
  if (!*(const unsigned char *)TF_TensorData(values[VALID]))
    fail("%s: no JPEG or PNG that can be read, or too large", argv[2]);

  const int32_t *size = TF_TensorData(values[IMAGE_SIZE]);
  for (int mask = CATEGORY_MASK; mask <= INSTANCE_MASK; mask++) {
    if (TF_Dim(values[IMAGE_SIZE], 1) != 2 || size[0] < 1 || size[0] > TF_Dim(values[mask], 1) ||
        size[1] < 1 || size[1] > TF_Dim(values[mask], 2))
      fail("image_size is not within %s", OUTPUTS[mask].key);
    check_mask(OUTPUTS[mask].key, values[mask], size[0], size[1]);
  }
  print_segments(values);
  write_pgm(argv[3], "category", values[CATEGORY_MASK], size[0], size[1]);
  write_pgm(argv[3], "instance", values[INSTANCE_MASK], size[0], size[1]);

  for (int i = 0; i < NUM_OUTPUTS; i++) TF_DeleteTensor(values[i]);
  TF_DeleteTensor(content);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  free((void *)photo.data);
  return 0;
}
