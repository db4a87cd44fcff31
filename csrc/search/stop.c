#include "search/stop.h"

int ragfast_search_stopped_in_codes(search *s, size_t worker) {
    search_worker *w = &s->workers[worker];
    w->work = 0;
    if (w->in_codes) s->plan->kernels->end_codes();
    int stopped = ragfast_search_stopped(s, worker);
    if (w->in_codes) s->plan->kernels->begin_codes();
    return stopped;
}
