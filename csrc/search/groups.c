/* Constraints of groups.
 *
 * With at most n documents of a group, a set of documents is feasible if it has no more of any group. The results are then the
 * greedy choice: by (score, id), leaving out whatever n better ones of its group come before. Feasible sets are the
 * independent sets of a partition matroid, so
 *   - the k-th of *any* k feasible documents by their lower bounds is a threshold: greedy's k-th is the greatest there is;
 *   - a document goes for good when n others of its group are certainly before it, or k feasible ones: greedy never takes it,
 *     and what greedy takes instead is not changed by its absence. */
#include "search/groups.h"

#include "search/stop.h"

static int32_t group_of(const search *s, const ragfast_candidate *c) {
    const int32_t *groups = s->plan->docs[c->segment].groups;
    return groups ? groups[c->row] : -1;
}

/* By group, then as results: a group's best stand side by side. */
static int before_by_group(const void *context, const ragfast_candidate *a, const ragfast_candidate *b) {
    int32_t group_a = group_of(context, a), group_b = group_of(context, b);
    return group_a != group_b ? group_a < group_b : ragfast_before(a, b);
}

size_t ragfast_put_feasible_first(search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n) {
    s->workers[worker].work += *n * RAGFAST_ITEM_WORK;
    ragfast_heap_sort(s, worker, items, *n, before_by_group, s);
    size_t n_feasible = 0, n_left = 0, in_group = 0;
    int32_t before = -1;
    double last_lower = 0; /* of the max_per_group-th of the group */
    for (size_t i = 0; i < *n; i++) {
        int32_t group = group_of(s, &items[i]);
        in_group = group < 0 || group != before ? 1 : in_group + 1;
        before = group;
        if (in_group == s->plan->max_per_group) {
            last_lower = items[i].lower;
            if (group >= 0) *ragfast_group_threshold_of(s, q, worker, group) = (group_threshold){last_lower, group};
        }
        if (in_group > s->plan->max_per_group && (items[i].exact || items[i].upper < last_lower)) continue;
        items[n_left++] = items[i];
        if (in_group <= s->plan->max_per_group) ragfast_swap(&items[n_left - 1], &items[n_feasible++]);
    }
    *n = n_left;
    return n_feasible;
}
