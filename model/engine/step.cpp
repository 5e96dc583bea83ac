// One decoding step on the CPU: what reference.py computes, row by row, for shapes fixed at compile time.
//
// A block of rows goes through all layers before the next block starts. Every output element is a sum in a fixed
// order that no other row influences, so a row's result is bitwise the same in any batch.
// Matrices are packed by native.py as [columns / 16][inputs][16], so that the inner loop reads them in order.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

constexpr int largest_divisor(int n, int most) {
  for (int d = most; d > 1; --d)
    if (n % d == 0) return d;
  return 1;
}

constexpr int kBlock = 96;  // rows that go through the network together: their activations stay in the L2 cache
constexpr int kWidth = KV_LORA + ROPE;
constexpr int kLow = padded(Q_LORA + KV_LORA + ROPE + INDEX_DIM + INDEX_HEADS);
constexpr int kQueries = padded(HEADS * kWidth + INDEX_HEADS * INDEX_DIM);
constexpr int kAttended = HEADS * KV_LORA;
constexpr int kDense = DENSE > SHARED ? DENSE : SHARED;
constexpr int kInner = padded(2 * (kDense > EXPERT ? kDense : EXPERT));
constexpr int kPairs = kBlock * PER_TOKEN;
constexpr int kHeadGroup = largest_divisor(HEADS, 4);
constexpr int kIndexGroup = largest_divisor(INDEX_HEADS, 4);
constexpr int kValuePair = largest_divisor(HEADS, 2);
constexpr int kValueLanes = largest_divisor(KV_LORA / 8, 6);

constexpr int kAhead = 12;  // keys that are fetched ahead of their use

struct Layer {  // the order of native.py's table; all fields are eight bytes wide
  const float *low, *queries, *output, *key_gain, *key_bias;
  const float *gate_up, *down;
  const float *router, *router_bias, *experts_gate_up, *experts_down;
  float *latent, *index_keys;
  int64_t dense_inner;
};

struct Rows {
  int count;
  const int64_t *tokens, *slots, *positions;
};

struct Scratch {
  std::vector<float> hidden, normal, low, latent, queries, attended, inner, gated;
  std::vector<float> routed, expert_in, expert_inner, expert_gated, expert_out, scores, index;
  std::vector<int32_t> selected, selected_count;
  explicit Scratch(int64_t max_length, int64_t topk)
      : hidden(kBlock * HIDDEN), normal(kBlock * HIDDEN), low(kBlock * kLow), latent(kBlock * Q_LORA),
        queries(kBlock * kQueries), attended(kBlock * kAttended), inner(kBlock * kInner), gated(kBlock * kInner),
        routed(kBlock * padded(EXPERTS)), expert_in(kPairs * HIDDEN), expert_inner(kPairs * padded(2 * EXPERT)),
        expert_gated(kPairs * EXPERT), expert_out(kPairs * HIDDEN), scores(HEADS * (max_length + 8)),
        index(max_length + 8), selected(kBlock * topk), selected_count(kBlock) {}
};

// RMSNorm without gain of n values (a multiple of 8).
__attribute__((noinline)) void normalise(const float *x, float *out, int n, float eps) {
  Lane squares = splat(0.0f);
  for (int i = 0; i < n; i += 8) squares += load(x + i) * load(x + i);
  const Lane scale = splat(1.0f / std::sqrt(sum(squares) / n + eps));
  for (int i = 0; i < n; i += 8) store(out + i, load(x + i) * scale);
}

void layer_norm(const float *x, const float *gain, const float *bias, float *out) {
  Lane total = splat(0.0f), squares = splat(0.0f);
  for (int i = 0; i < INDEX_DIM; i += 8) total += load(x + i);
  const Lane mean = splat(sum(total) / INDEX_DIM);
  for (int i = 0; i < INDEX_DIM; i += 8) squares += (load(x + i) - mean) * (load(x + i) - mean);
  const Lane scale = splat(1.0f / std::sqrt(sum(squares) / INDEX_DIM + INDEX_NORM_EPS));
  for (int i = 0; i < INDEX_DIM; i += 8)
    store(out + i, (load(x + i) - mean) * scale * load(gain + i) + load(bias + i));
}

// Interleaved RoPE of one head; angles holds cos and sin of the row's position, [ROPE / 2][2].
inline void rotate(const float *x, const float *angles, float *out) {
  for (int i = 0; i < ROPE; i += 2) {
    const float even = x[i], odd = x[i + 1], c = angles[i], s = angles[i + 1];
    out[i] = even * c - odd * s;
    out[i + 1] = odd * c + even * s;
  }
}

inline int32_t ordered(float x) {  // integers in the order of the floats; -0 equals 0
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

int count_above(const int32_t *keys, int n, int32_t limit) {  // n padded to a multiple of 8
  Bits total = {};
  const Bits bound = Bits{} + limit;
  for (int i = 0; i < n; i += 8) total -= *reinterpret_cast<const Bits *>(keys + i) > bound;
  int above = 0;
  for (int i = 0; i < 8; ++i) above += total[i];
  return above;
}

// The k largest of n scores, ties to the lower index, as ascending indices. Overwrites the scores with integers.
__attribute__((noinline)) void select_largest(float *scores, int n, int k, int32_t *out) {
  int32_t *keys = reinterpret_cast<int32_t *>(scores);
  int32_t low = INT32_MAX, high = INT32_MIN;
  for (int i = 0; i < n; ++i) {
    const int32_t key = ordered(scores[i]);
    std::memcpy(keys + i, &key, 4);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  const int end = (n + 7) / 8 * 8;
  for (int i = n; i < end; ++i) keys[i] = INT32_MIN;
  int64_t least = int64_t(low) - 1, most = high;  // count_above(least) >= k (all n), count_above(most) = 0 < k
  while (most - least > 1) {
    const int64_t middle = least + (most - least) / 2;
    (count_above(keys, end, int32_t(middle)) >= k ? least : most) = middle;
  }
  const int32_t limit = int32_t(most);  // the k-th largest key
  int ties = k - count_above(keys, end, limit), found = 0;
  for (int i = 0; i < n && found < k; ++i) {
    const bool tie = keys[i] == limit && ties > 0;
    ties -= tie;
    out[found] = i;
    found += tie || keys[i] > limit;
  }
}

__attribute__((noinline)) void index_scores(const float *query, const float *weights, const float *keys, int length, float *out) {
  for (int s = 0; s < length; ++s) {
    const float *key = keys + int64_t(s) * INDEX_DIM;
    for (int d = 0; d < INDEX_DIM; d += 16) __builtin_prefetch(key + kAhead * INDEX_DIM + d);
    float score = 0.0f;
    for (int first = 0; first < INDEX_HEADS; first += kIndexGroup) {
      Lane dots[kIndexGroup];
      for (int j = 0; j < kIndexGroup; ++j) dots[j] = splat(0.0f);
      for (int d = 0; d < INDEX_DIM; d += 8)
        for (int j = 0; j < kIndexGroup; ++j) dots[j] += load(query + (first + j) * INDEX_DIM + d) * load(key + d);
      float total[kIndexGroup];
      sums<kIndexGroup>(dots, total);
      for (int j = 0; j < kIndexGroup; ++j) score += weights[first + j] * (total[j] > 0.0f ? total[j] : 0.0f);
    }
    out[s] = score;
  }
}

__attribute__((noinline)) void dot_products(const float *heads, const float *keys, const int32_t *chosen, int n, float *scores, int stride) {
  for (int first = 0; first < HEADS; first += kHeadGroup)
    for (int i = 0; i < n; ++i) {
      const float *key = keys + int64_t(chosen[i]) * kWidth;
      if (first == 0 && i + kAhead < n)  // the keys come from main memory: ask for them early
        for (int d = 0; d < kWidth; d += 16) __builtin_prefetch(keys + int64_t(chosen[i + kAhead]) * kWidth + d);
      Lane dots[kHeadGroup];
      for (int h = 0; h < kHeadGroup; ++h) dots[h] = splat(0.0f);
      for (int d = 0; d < kWidth; d += 8)
        for (int h = 0; h < kHeadGroup; ++h) dots[h] += load(heads + (first + h) * kWidth + d) * load(key + d);
      float total[kHeadGroup];
      sums<kHeadGroup>(dots, total);
      for (int h = 0; h < kHeadGroup; ++h) scores[(first + h) * stride + i] = total[h];
    }
}

__attribute__((noinline)) void softmax(float *scores, int n) {
  const int end = (n + 7) / 8 * 8;
  for (int i = n; i < end; ++i) scores[i] = -INFINITY;
  Lane top = splat(-INFINITY);
  for (int i = 0; i < end; i += 8) top = largest(top, load(scores + i));
  float most = top[0];
  for (int i = 1; i < 8; ++i) most = top[i] > most ? top[i] : most;
  Lane total = splat(0.0f);
  for (int i = 0; i < end; i += 8) {
    const Lane e = exponential(load(scores + i) - splat(most));
    total += e;
    store(scores + i, e);
  }
  const Lane scale = splat(1.0f / sum(total));
  for (int i = 0; i < end; i += 8) store(scores + i, load(scores + i) * scale);
}

__attribute__((noinline)) void weighted_values(const float *scores, int stride, const float *keys, const int32_t *chosen, int n, float *out) {
  for (int first = 0; first < HEADS; first += kValuePair)
    for (int d = 0; d < KV_LORA; d += 8 * kValueLanes) {
      Lane total[kValuePair][kValueLanes] = {};
      for (int i = 0; i < n; ++i) {
        const float *key = keys + int64_t(chosen[i]) * kWidth + d;
        for (int h = 0; h < kValuePair; ++h) {
          const Lane p = splat(scores[(first + h) * stride + i]);
          for (int v = 0; v < kValueLanes; ++v) total[h][v] += p * load(key + 8 * v);
        }
      }
      for (int h = 0; h < kValuePair; ++h)
        for (int v = 0; v < kValueLanes; ++v) store(out + (first + h) * KV_LORA + d + 8 * v, total[h][v]);
    }
}

// Norms, rotations and cache writes of one row; leaves its rotated queries in s.queries.
__attribute__((noinline)) void write_keys(const Layer &layer, Scratch &s, const Rows &rows, int row, const float *angles, int64_t max_length) {
  const int64_t at = rows.slots[row] * max_length + rows.positions[row];
  const float *low = s.low.data() + row * kLow, *turn = angles + rows.positions[row] * ROPE;
  normalise(low, s.latent.data() + row * Q_LORA, Q_LORA, LATENT_NORM_EPS);
  float *latent = layer.latent + at * kWidth;
  normalise(low + Q_LORA, latent, KV_LORA, LATENT_NORM_EPS);
  rotate(low + Q_LORA + KV_LORA, turn, latent + KV_LORA);
  if (!layer.index_keys) return;
  float *key = layer.index_keys + at * INDEX_DIM;
  layer_norm(low + Q_LORA + KV_LORA + ROPE, layer.key_gain, layer.key_bias, key);
  rotate(key, turn, key);
}

__attribute__((noinline)) void select_keys(const Layer &layer, Scratch &s, int row, int64_t base, int length, int topk) {
  int32_t *chosen = s.selected.data() + int64_t(row) * topk;
  const float *weights = s.low.data() + row * kLow + Q_LORA + KV_LORA + ROPE + INDEX_DIM;
  const float *query = s.queries.data() + row * kQueries + HEADS * kWidth;
  s.selected_count[row] = length < topk ? length : topk;
  if (length > topk) {
    index_scores(query, weights, layer.index_keys + base * INDEX_DIM, length, s.index.data());
    select_largest(s.index.data(), length, topk, chosen);
  } else {
    for (int i = 0; i < length; ++i) chosen[i] = i;
  }
}

__attribute__((noinline)) void attend(const Layer &layer, Scratch &s, const Rows &rows, int row, const float *angles, int64_t max_length,
            int topk) {
  float *query = s.queries.data() + row * kQueries;
  const float *turn = angles + rows.positions[row] * ROPE;
  for (int h = 0; h < HEADS; ++h) rotate(query + h * kWidth + KV_LORA, turn, query + h * kWidth + KV_LORA);
  const int64_t base = rows.slots[row] * max_length;
  if (layer.index_keys) {
    float *index = query + HEADS * kWidth;
    for (int j = 0; j < INDEX_HEADS; ++j) rotate(index + j * INDEX_DIM, turn, index + j * INDEX_DIM);
    select_keys(layer, s, row, base, int(rows.positions[row]) + 1, topk);
  }
  const int32_t *chosen = s.selected.data() + int64_t(row) * topk;
  const int n = s.selected_count[row], stride = int(max_length) + 8;
  const float *keys = layer.latent + base * kWidth;
  dot_products(query, keys, chosen, n, s.scores.data(), stride);
  for (int h = 0; h < HEADS; ++h) softmax(s.scores.data() + h * stride, n);
  weighted_values(s.scores.data(), stride, keys, chosen, n, s.attended.data() + row * kAttended);
}

// out = silu(gate) * up for rows of [gate | up].
__attribute__((noinline)) void gate(const float *x, int stride, float *out, int rows, int inner) {
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < inner; i += 8) {
      const Lane g = load(x + r * stride + i), up = load(x + r * stride + inner + i);
      store(out + r * inner + i, g / (splat(1.0f) + exponential(-g)) * up);
    }
}

void feed_forward(const float *x, const float *gate_up, const float *down, int inner, int rows, float *inside,
                  float *gated, float *out, bool add) {
  const int wide = padded(2 * inner);
  matmul(x, HIDDEN, gate_up, inside, wide, rows, wide, HIDDEN);
  gate(inside, wide, gated, rows, inner);
  matmul(gated, inner, down, out, HIDDEN, rows, HIDDEN, inner, add);
}

// The experts of one row and their weights, best first; ties to the lower expert.
void route(const float *logits, const float *bias, int32_t *experts, float *weights) {
  float scores[EXPERTS], keys[EXPERTS], total = 0.0f;
  for (int e = 0; e < EXPERTS; ++e) {
    scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    keys[e] = scores[e] + bias[e];
  }
  for (int k = 0; k < PER_TOKEN; ++k) {
    int best = 0;
    for (int e = 1; e < EXPERTS; ++e)
      if (keys[e] > keys[best]) best = e;
    experts[k] = best;
    weights[k] = scores[best];
    total += scores[best];
    keys[best] = -INFINITY;
  }
  const float scale = NORMALISE ? ROUTED_SCALE / (total + 1e-20f) : ROUTED_SCALE;
  for (int k = 0; k < PER_TOKEN; ++k) weights[k] *= scale;
}

// Rows sorted by expert, one matrix product an expert, results added in each row's own order of experts.
__attribute__((noinline)) void mixture(const Layer &layer, Scratch &s, int rows) {
  constexpr int columns = padded(EXPERTS);
  matmul(s.normal.data(), HIDDEN, layer.router, s.routed.data(), columns, rows, columns, HIDDEN);
  int32_t experts[kPairs], place[kPairs];
  float weights[kPairs];
  int begin[EXPERTS + 1] = {}, next[EXPERTS];
  for (int r = 0; r < rows; ++r)
    route(s.routed.data() + r * columns, layer.router_bias, experts + r * PER_TOKEN, weights + r * PER_TOKEN);
  for (int i = 0; i < rows * PER_TOKEN; ++i) ++begin[experts[i] + 1];
  for (int e = 0; e < EXPERTS; ++e) begin[e + 1] += begin[e];
  std::memcpy(next, begin, sizeof next);
  for (int i = 0; i < rows * PER_TOKEN; ++i) {
    place[i] = next[experts[i]]++;
    std::memcpy(&s.expert_in[place[i] * HIDDEN], &s.normal[i / PER_TOKEN * HIDDEN], HIDDEN * sizeof(float));
  }
  for (int e = 0; e < EXPERTS; ++e) {
    const int first = begin[e], n = begin[e + 1] - first;
    if (n)
      feed_forward(&s.expert_in[first * HIDDEN], layer.experts_gate_up + int64_t(e) * padded(2 * EXPERT) * HIDDEN,
                   layer.experts_down + int64_t(e) * HIDDEN * EXPERT, EXPERT, n, s.expert_inner.data(),
                   s.expert_gated.data(), &s.expert_out[first * HIDDEN], false);
  }
  for (int i = 0; i < rows * PER_TOKEN; ++i)
    for (int d = 0; d < HIDDEN; d += 8) {
      float *out = &s.hidden[i / PER_TOKEN * HIDDEN + d];
      store(out, load(out) + splat(weights[i]) * load(&s.expert_out[place[i] * HIDDEN + d]));
    }
}

void run_layer(const Layer &layer, Scratch &s, const Rows &rows, const float *angles, int64_t max_length, int topk) {
  const int n = rows.count;
  float *hidden = s.hidden.data(), *normal = s.normal.data();
  for (int r = 0; r < n; ++r) normalise(hidden + r * HIDDEN, normal + r * HIDDEN, HIDDEN, NORM_EPS);
  matmul(normal, HIDDEN, layer.low, s.low.data(), kLow, n, kLow, HIDDEN);
  for (int r = 0; r < n; ++r) write_keys(layer, s, rows, r, angles, max_length);
  matmul(s.latent.data(), Q_LORA, layer.queries, s.queries.data(), kQueries, n, kQueries, Q_LORA);
  for (int r = 0; r < n; ++r) attend(layer, s, rows, r, angles, max_length, topk);
  matmul(s.attended.data(), kAttended, layer.output, hidden, HIDDEN, n, HIDDEN, kAttended, true);
  for (int r = 0; r < n; ++r) normalise(hidden + r * HIDDEN, normal + r * HIDDEN, HIDDEN, NORM_EPS);
  feed_forward(normal, layer.gate_up, layer.down, int(layer.dense_inner), n, s.inner.data(), s.gated.data(), hidden,
               true);
  if (layer.router) mixture(layer, s, n);
}

// Draws one token by inverting the cumulative distribution of logits / temperature (0: the first largest logit).
// Sums are taken in the order of the ids, by groups of eight.
void draw(const float *logits, float temperature, double number, float *weights, int64_t *token, float *log_prob) {
  constexpr int groups = padded(VOCABULARY) / 8;
  int best = 0;
  for (int i = 1; i < VOCABULARY; ++i)
    if (logits[i] > logits[best]) best = i;
  const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
  std::memcpy(weights, logits, VOCABULARY * sizeof(float));
  for (int i = VOCABULARY; i < groups * 8; ++i) weights[i] = -INFINITY;
  double total = 0.0;
  for (int g = 0; g < groups; ++g) {
    store(weights + 8 * g, exponential((load(weights + 8 * g) - splat(logits[best])) * splat(inverse)));
    total += sum(load(weights + 8 * g));
  }
  int chosen = best;
  if (temperature > 0.0f) {
    const double target = number * total;
    double passed = 0.0;
    int g = 0;
    for (; g + 1 < groups && passed + sum(load(weights + 8 * g)) <= target; ++g) passed += sum(load(weights + 8 * g));
    chosen = 8 * g;
    for (int i = 8 * g; i < 8 * g + 8; ++i) {
      if (weights[i] > weights[chosen]) chosen = i;  // stays if rounding leaves the target behind the group
      if ((passed += weights[i]) > target) {
        chosen = i;
        break;
      }
    }
  }
  *token = chosen;
  *log_prob = (logits[chosen] - logits[best]) * inverse - float(std::log(total));
}

}  // namespace

extern "C" void sample_rows(const float *logits, int64_t stride, int64_t rows, const float *temperatures,
                            const double *numbers, int64_t *tokens, float *log_probs) {
  std::vector<float> weights(padded(VOCABULARY));
  for (int64_t r = 0; r < rows; ++r)
    draw(logits + r * stride, temperatures[r], numbers[r], weights.data(), tokens + r, log_probs + r);
}

// Row r begins as inputs[tokens[r]]; rows of one slot must ascend in position. Writes logits
// [wanted, padded(VOCABULARY)] of the rows listed in wanted, which must ascend, and, where `states` is not null, the
// normalised last state of every row, [rows, HIDDEN].
extern "C" void decode_rows(const Layer *layers, int64_t layer_count, const float *inputs, const float *head,
                            const float *angles, int64_t max_length, int64_t topk, int64_t row_count,
                            const int64_t *tokens, const int64_t *slots, const int64_t *positions,
                            int64_t wanted_count, const int64_t *wanted, float *logits, float *states) {
  Scratch s(max_length, topk);
  constexpr int columns = padded(VOCABULARY);
  int64_t done = 0;
  for (int64_t first = 0; first < row_count; first += kBlock) {
    const int n = int(row_count - first < kBlock ? row_count - first : kBlock);
    const Rows rows{n, tokens + first, slots + first, positions + first};
    for (int r = 0; r < n; ++r)
      std::memcpy(&s.hidden[r * HIDDEN], inputs + rows.tokens[r] * HIDDEN, HIDDEN * sizeof(float));
    for (int64_t l = 0; l < layer_count; ++l) run_layer(layers[l], s, rows, angles, max_length, int(topk));
    for (int r = 0; states && r < n; ++r)
      normalise(&s.hidden[r * HIDDEN], states + (first + r) * HIDDEN, HIDDEN, NORM_EPS);
    int kept = 0;
    for (; done + kept < wanted_count && wanted[done + kept] < first + n; ++kept)
      normalise(&s.hidden[(wanted[done + kept] - first) * HIDDEN], &s.normal[kept * HIDDEN], HIDDEN, NORM_EPS);
    matmul(s.normal.data(), HIDDEN, head, logits + done * columns, columns, kept, columns, HIDDEN);
    done += kept;
  }
}
