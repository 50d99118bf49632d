/*
 * Runs on: workers. Asks the filters of eight tables at once which of them may hold a match.
 *
 * The portable form and one for AVX-512, which does the same in lanes of a vector; which one is
 * used is decided when a classifier is made.
 */
#include "classify_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

unsigned classify_probe_portable(const struct probe_group *group, const struct classify_hash *hash,
				 const uint64_t key[FLOW_WORDS], uint64_t out[GROUP_TABLES])
{
	unsigned found = 0;

	for (unsigned lane = 0; lane < group->tables; lane++) {
		uint64_t sum = hash->base, h, filter, bits;

		for (unsigned w = 0; w < hash->words; w++)
			sum += hash_word(key[w] & group->mask[w][lane], hash->seed[hash->word[w]]);
		h = hash_finish(sum);
		bits = filter_bits((uint32_t)h);
		filter = group->filter[lane][(h >> 1 >> group->shift[lane]) * FILTER_WORDS +
					     filter_word((uint32_t)h)];
		found |= (unsigned)((filter & bits) == bits) << lane;
		out[lane] = h;
	}
	return found;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512dq"))) static unsigned
probe_avx512(const struct probe_group *group, const struct classify_hash *hash,
	     const uint64_t key[FLOW_WORDS], uint64_t out[GROUP_TABLES])
{
	const __m512i six_bits = _mm512_set1_epi64(63), one = _mm512_set1_epi64(1);
	__m512i sum = _mm512_set1_epi64((int64_t)hash->base), h, tag, at, bits, filter;

	for (unsigned w = 0; w < hash->words; w++) {
		__m512i word = _mm512_and_si512(_mm512_set1_epi64((int64_t)key[w]),
						_mm512_load_si512(group->mask[w]));

		word =
		    _mm512_add_epi32(word, _mm512_set1_epi64((int64_t)hash->seed[hash->word[w]]));
		sum = _mm512_add_epi64(sum, _mm512_mul_epu32(word, _mm512_srli_epi64(word, 32)));
	}
	h = _mm512_mullo_epi64(_mm512_xor_si512(sum, _mm512_srli_epi64(sum, 32)),
			       _mm512_set1_epi64((int64_t)hash_final));
	_mm512_storeu_si512(out, h);
	tag = _mm512_and_si512(h, _mm512_set1_epi64(UINT32_MAX));
	at = _mm512_srlv_epi64(_mm512_srli_epi64(h, 1), _mm512_load_si512(group->shift));
	at = _mm512_or_si512(_mm512_slli_epi64(at, 2), _mm512_srli_epi64(tag, 30));
	at = _mm512_add_epi64(_mm512_slli_epi64(at, 3), _mm512_load_si512(group->filter));
	filter = _mm512_i64gather_epi64(at, NULL, 1);
	bits = _mm512_or_si512(
	    _mm512_sllv_epi64(one, _mm512_and_si512(_mm512_srli_epi64(tag, 16), six_bits)),
	    _mm512_sllv_epi64(one, _mm512_and_si512(_mm512_srli_epi64(tag, 22), six_bits)));
	return _mm512_cmpeq_epi64_mask(_mm512_and_si512(filter, bits), bits);
}
#endif

classify_probe *classify_probe_choose(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
		return probe_avx512;
#endif
	return classify_probe_portable;
}
