/* What it is and who runs it: rules_hits.h. */
#include "rules_hits.h"

#ifdef RULES_HITS_AVX512
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")
#include "rules_hits_loops.h"

uint64_t rules_hits_avx512(struct rules_work *work, const struct rules_stage *stage,
			   struct frame *const *frames, unsigned count, uint64_t *drops,
			   uint64_t *gone)
{
	return hits(work, stage, frames, count, drops, gone);
}
#endif
