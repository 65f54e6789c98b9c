#pragma once
/// Progress, tables and logs.

#include "offsite/report/json_lines.hpp"
#include "offsite/report/progress.hpp"
#include "offsite/report/progress_line.hpp"
#include "offsite/report/table.hpp"
