/* The k largest scores of each row within its own range of keys, as ascending indices; ties go to the lower index.
 *
 * The threshold is found by radix selection on the bits of the scores (11, 11, 10 bits), which order like the floats.
 */
#include <string.h>

typedef unsigned int u32;

/* Bits that sort like the float; both zeros are one value. */
static inline u32 ordered(u32 bits) {
    bits = bits == 0x80000000u ? 0 : bits;
    return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

/* Largest value that at least k of the n entries reach; *room gets how many of the entries equal to it belong. */
static u32 threshold(const u32 *entry, u32 *spare, long n, long k, long *room) {
    static const int shift[3] = {21, 10, 0}, width[3] = {11, 11, 10};
    u32 prefix = 0;
    for (int pass = 0; pass < 3; pass++) {
        int histogram[2048];
        const u32 mask = (1u << width[pass]) - 1;
        memset(histogram, 0, sizeof histogram);
        for (long i = 0; i < n; i++) histogram[(entry[i] >> shift[pass]) & mask]++;
        u32 bucket = mask;
        while (histogram[bucket] < k) k -= histogram[bucket--];
        prefix |= bucket << shift[pass];
        long kept = 0;
        for (long i = 0; i < n; i++) {
            spare[kept] = entry[i];
            kept += ((entry[i] >> shift[pass]) & mask) == bucket;
        }
        entry = spare;
        n = kept;
    }
    *room = k;
    return prefix;
}

static void select_row(const u32 *score, long first, long last, long k, int *out) {
    const long n = last - first;
    long count = 0, room = 0;
    if (n <= k) {
        for (; count < n; count++) out[count] = (int)(first + count);
    } else {
        u32 entry[n], spare[n + 1];
        for (long i = 0; i < n; i++) entry[i] = ordered(score[first + i]);
        const u32 limit = threshold(entry, spare, n, k, &room);
        for (long i = 0; i < n && count < k; i++) {
            const int tied = entry[i] == limit && room > 0;
            out[count] = (int)(first + i);
            count += entry[i] > limit || tied;
            room -= tied;
        }
    }
    for (; count < k; count++) out[count] = -1;
}

/* score [rows, S] (the bits of fp32), first and last [rows]: the half-open range of keys; out [rows, k]. */
void select_keys(const u32 *score, const long long *first, const long long *last, long S, long k, int *out, long begin,
                 long end) {
    for (long row = begin; row < end; row++)
        select_row(score + row * S, (long)first[row], (long)last[row], k, out + row * k);
}
