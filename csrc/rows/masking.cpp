#include "rows/masking.h"

#include <algorithm>

#if defined(ETTIN_X86)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms inside GCC 12's own header
#include <immintrin.h>
#endif

namespace ettin {

namespace {

const InstructionSet kMasking = choose("masking", {InstructionSet::kAvx2, InstructionSet::kAvx512});

constexpr size_t kRegisterRoom = 16;  // a whole register may be stored past the last label

bool is_protected(const MaskRule& rule, int32_t id) noexcept {
  for (const int32_t special : rule.protected_ids)
    if (id == special) return true;
  return false;
}

// Handles the tokens [begin, end); returns how many random replacements it noted.
size_t choose_portable(int32_t* row, uint32_t begin, uint32_t end, const MaskRule& rule, int32_t label_base,
                       Labels& labels, const uint32_t* draws, uint32_t* random_tokens, size_t random_count) noexcept {
  for (uint32_t i = begin; i < end; ++i) {
    const uint32_t draw = draws[i];
    if (draw >= rule.bounds.chosen_below || is_protected(rule, row[i])) continue;
    labels.add(label_base + static_cast<int32_t>(i), row[i]);
    if (draw < rule.bounds.mask_below) {
      row[i] = rule.mask_id;
    } else if (draw < rule.bounds.random_below) {
      random_tokens[random_count++] = i;
    }
  }
  return random_count;
}

#if defined(ETTIN_X86)

// Chosen tokens are found eight at a time and handled one by one.
__attribute__((target("avx2"))) size_t choose_avx2(int32_t* row, uint32_t begin, uint32_t end, const MaskRule& rule,
                                                   int32_t label_base, Labels& labels, const uint32_t* draws,
                                                   uint32_t* random_tokens, size_t random_count) noexcept {
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);
  const __m256i chosen_below = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(rule.bounds.chosen_below)), sign);
  uint32_t i = begin;
  for (; i + 8 <= end; i += 8) {
    const __m256i draw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws + i));
    const __m256i chosen = _mm256_cmpgt_epi32(chosen_below, _mm256_xor_si256(draw, sign));
    auto bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(chosen)));
    for (; bits != 0; bits &= bits - 1) {
      const uint32_t token = i + static_cast<uint32_t>(__builtin_ctz(bits));
      random_count =
          choose_portable(row, token, token + 1, rule, label_base, labels, draws, random_tokens, random_count);
    }
  }
  return choose_portable(row, i, end, rule, label_base, labels, draws, random_tokens, random_count);
}

__attribute__((target("avx512f,avx512bw"))) size_t choose_avx512(int32_t* row, uint32_t begin, uint32_t end,
                                                                 const MaskRule& rule, int32_t label_base,
                                                                 Labels& labels, const uint32_t* draws,
                                                                 uint32_t* random_tokens,
                                                                 size_t random_count) noexcept {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i chosen_below = _mm512_set1_epi32(static_cast<int>(rule.bounds.chosen_below));
  const __m512i mask_below = _mm512_set1_epi32(static_cast<int>(rule.bounds.mask_below));
  const __m512i random_below = _mm512_set1_epi32(static_cast<int>(rule.bounds.random_below));
  const __m512i mask_id = _mm512_set1_epi32(rule.mask_id);
  const int32_t lowest = rule.protected_ids.empty() ? 0 : rule.protected_ids.front();
  const int32_t highest = rule.protected_ids.empty() ? -1 : rule.protected_ids.back();
  const __m512i low = _mm512_set1_epi32(lowest), high = _mm512_set1_epi32(highest);
  for (uint32_t i = begin; i < end; i += 16) {
    const auto inside = static_cast<__mmask16>(end - i >= 16 ? 0xFFFF : (1u << (end - i)) - 1);
    const __m512i id = _mm512_maskz_loadu_epi32(inside, row + i);
    const __m512i draw = _mm512_maskz_loadu_epi32(inside, draws + i);
    __mmask16 chosen = _mm512_mask_cmplt_epu32_mask(inside, draw, chosen_below);
    __mmask16 suspects = _mm512_mask_cmpge_epi32_mask(chosen, id, low);
    suspects = _mm512_mask_cmple_epi32_mask(suspects, id, high);
    for (unsigned bits = suspects; bits != 0; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      if (is_protected(rule, row[i + static_cast<uint32_t>(lane)])) chosen &= static_cast<__mmask16>(~(1u << lane));
    }
    const __m512i position = _mm512_add_epi32(_mm512_set1_epi32(label_base + static_cast<int32_t>(i)), lanes);
    _mm512_storeu_si512(labels.positions.data() + labels.count, _mm512_maskz_compress_epi32(chosen, position));
    _mm512_storeu_si512(labels.ids.data() + labels.count, _mm512_maskz_compress_epi32(chosen, id));
    labels.count += static_cast<size_t>(__builtin_popcount(chosen));
    const __mmask16 masked = _mm512_mask_cmplt_epu32_mask(chosen, draw, mask_below);
    _mm512_mask_storeu_epi32(row + i, masked, mask_id);
    const auto random = static_cast<__mmask16>(_mm512_mask_cmplt_epu32_mask(chosen, draw, random_below) & ~masked);
    const __m512i token = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(i)), lanes);
    _mm512_storeu_si512(random_tokens + random_count, _mm512_maskz_compress_epi32(random, token));
    random_count += static_cast<size_t>(__builtin_popcount(random));
  }
  return random_count;
}

#endif

}  // namespace

void Labels::reserve_more(size_t more) {
  const size_t needed = count + more + kRegisterRoom;
  if (positions.size() >= needed) return;
  positions.resize(std::max(needed, positions.size() * 2));
  ids.resize(positions.size());
}

void start_row_masks(const RowStream& choices, uint32_t length, MaskScratch& scratch, InstructionSet set) {
  const size_t room = (size_t{length} + kDrawGroup - 1) / kDrawGroup * kDrawGroup;
  if (scratch.draws.size() < room) scratch.draws.resize(room);
  if (scratch.random_tokens.size() < room + kRegisterRoom) scratch.random_tokens.resize(room + kRegisterRoom);
  row_draws(choices, length, scratch.draws.data(), set);
}

void mask_span(int32_t* row, uint32_t begin, uint32_t end, const MaskRule& rule, const RowStream& replacements,
               int32_t label_base, Labels& labels, MaskScratch& scratch, InstructionSet set) {
  labels.reserve_more(end - begin);
  const uint32_t* draws = scratch.draws.data();
  uint32_t* random_tokens = scratch.random_tokens.data();
  size_t random_count = 0;
  set = std::min(set, kMasking);
#if defined(ETTIN_X86)
  if (set >= InstructionSet::kAvx512) {
    random_count = choose_avx512(row, begin, end, rule, label_base, labels, draws, random_tokens, 0);
  } else if (set >= InstructionSet::kAvx2) {
    random_count = choose_avx2(row, begin, end, rule, label_base, labels, draws, random_tokens, 0);
  } else
#endif
  {
    random_count = choose_portable(row, begin, end, rule, label_base, labels, draws, random_tokens, 0);
  }
  for (size_t i = 0; i < random_count; ++i) {
    const uint32_t token = random_tokens[i];
    row[token] = static_cast<int32_t>(uint64_t{row_draw(replacements, token)} * rule.vocabulary >> 32);
  }
}

}  // namespace ettin
