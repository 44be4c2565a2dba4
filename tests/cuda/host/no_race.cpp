/* no_race.cpp - the answers of a host device without the race lane. */
#include "hostdevice.h"

#include <stdio.h>

int hostdevice_has_race_lane(void) {
    return 0;
}

void hostdevice_search_races(int) {}

void hostdevice_measure_traffic(int) {}

void hostdevice_print_traffic(void) {
    fprintf(stderr, "hostdevice: traffic is counted in the race lane alone\n");
}
