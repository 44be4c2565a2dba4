/* race_traffic.h - how well the lanes of a warp use what memory moves for them. */
#ifndef HOSTDEVICE_RACE_TRAFFIC_H
#define HOSTDEVICE_RACE_TRAFFIC_H

#include "race.h"

namespace hostdevice {

void traffic_access(unsigned site, const char *p, size_t bytes, Access access, bool shared);
void traffic_launch();
void traffic_block_end();

/* race.cpp: the code of a site. */
const void *site_code(unsigned site);

} // namespace hostdevice

#endif
