#pragma once
// From the segment tables to the map: what one entry says of a physical cluster.
#include "base/types.h"
#include "extent/recovery.h"
#include "extent/table_page.h"

namespace foreshadow::extent {

// Puts one entry into the map. False if the volume cannot hold it.
bool add_entry(Recovered& volume, Pcn pcn, const TableEntry& entry);

}  // namespace foreshadow::extent
