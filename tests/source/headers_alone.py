"""Every public header compiles alone, without a warning."""
from support import Tally, compiler, flags, headers, run

command = [*compiler(), *flags(), "-Werror", "-fsyntax-only", "-x", "c++", "-"]


def alone(header):
    status, output = run(command, input=f'#include "{header}"\n')
    return status == 0, output


tally = Tally()
tally.check_all(alone, headers())
tally.finish()
