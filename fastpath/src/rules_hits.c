/* What it is and who runs it: rules_hits.h. */
#include "rules_hits.h"

#include "rules_hits_loops.h"

uint64_t rules_hits_portable(struct rules_work *work, const struct rules_stage *stage,
			     struct frame *const *frames, unsigned count, uint64_t *drops,
			     uint64_t *gone)
{
	return hits(work, stage, frames, count, drops, gone);
}

rules_hits *rules_hits_choose(void)
{
#ifdef RULES_HITS_AVX512
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vbmi"))
		return rules_hits_avx512;
#endif
	return rules_hits_portable;
}
