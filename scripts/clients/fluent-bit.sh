# Fluent Bit, which no registry has ready to run: npm's package `fluent-bit` has the program's sources, but for its regex library, in whose
# place Debian's Oniguruma goes. Built with what tailing a file and posting it over HTTP need; minutes on two cores. Sourced by clients.sh.

# Prints the path of the program. FLUENT_BIT=PATH takes one that is built already.
fluent_bit() {
    local program=${FLUENT_BIT:-$(command -v fluent-bit || true)} at=$work/fluent-bit.build
    if [ -z "$program" ]; then
        program=$at/build/bin/fluent-bit
        mkdir -p "$at"
        (cd "$at" && build_fluent_bit) >"$at/log" 2>&1 || { tail -n 20 "$at/log" >&2; return 1; }
    fi
    echo "$program"
}

build_fluent_bit() {
    local source=package/src/fluent-bit root=$packages/root regex parts
    npm pack --silent 'fluent-bit@0.0.3'
    tar -xzf fluent-bit-0.0.3.tgz "$source"
    unpack bison flex m4 libonig-dev libonig5
    python3 -m venv venv
    venv/bin/pip install --quiet --disable-pip-version-check 'cmake<4'
    export PATH=$root/usr/bin:$PATH BISON_PKGDATADIR=$root/usr/share/bison M4=$root/usr/bin/m4
    regex=$(find "$root" -name libonig.so.5)
    mkdir -p regex
    cp "$root"/usr/include/onig*.h regex/
    echo '#include "oniguruma.h"' >regex/onigmo.h
    {
        echo 'add_library(libonigmo SHARED IMPORTED GLOBAL)'
        echo "set_target_properties(libonigmo PROPERTIES IMPORTED_LOCATION $regex)"
        echo "include_directories(BEFORE $PWD/regex)"
    } >"$source/cmake/onigmo.cmake"
    # All plugins but those that are used.
    parts=$(sed -n 's/^option(\(FLB_\(IN\|OUT\|FILTER\)_[A-Z0-9_]*\).*/\1/p' "$source/CMakeLists.txt" |
        grep -v -x 'FLB_IN_TAIL\|FLB_IN_LIB\|FLB_IN_EMITTER\|FLB_IN_STORAGE_BACKLOG\|FLB_OUT_HTTP\|FLB_OUT_LIB' | sed 's/.*/-D&=No/')
    parts+=' '$(printf -- '-DFLB_%s=No ' AWS BACKTRACE CUSTOM_CALYPTIA DEBUG EXAMPLES HTTP_SERVER JEMALLOC LUAJIT PROXY_GO SHARED_LIB SIGNV4 SQLDB \
        STREAM_PROCESSOR)
    # shellcheck disable=SC2086 # Words.
    venv/bin/cmake -S "$source" -B build -DCMAKE_BUILD_TYPE=Release -DFLB_RELEASE=Yes -DCMAKE_C_FLAGS='-fcommon -w' $parts
    venv/bin/cmake --build build --parallel "$(nproc)" --target fluent-bit-bin
}
