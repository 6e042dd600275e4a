# Sourced by tools/test and tools/demo: the Debian packages that coir is built from, and how to get them.
# The names are those of Debian 12.

# A terminal sees what a command does, a file only why it failed.
quietly() {
  if [[ -t 1 ]]; then
    "$@"
  else
    local said
    said=$("$@" 2>&1 | tr -d '\0') || {
      printf '%s\n' "$said"
      return 1
    }
  fi
}

build_packages=(g++ meson ninja-build pkg-config liburing-dev libboost-context1.81-dev libfmt-dev
                libexpected-dev)

# need_packages PACKAGE...: installs those that are missing.
need_packages() {
  if ! command -v dpkg-query > /dev/null; then
    echo "This is no Debian: what is missing is not installed. Debian's names of what is needed: $*"
    return
  fi
  local missing=() package
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi

  local as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo > /dev/null; then
      echo "These Debian packages are missing: ${missing[*]}"
      echo "There is no sudo here. Install them as root:  apt-get install ${missing[*]}"
      return 1
    fi
    as_root=(sudo)
  fi
  echo "Installing ${missing[*]}"
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
                 apt-get install --yes --quiet --no-install-recommends "${missing[@]}")
  # The lists of a fresh machine are empty, those of an old one name packages that are gone.
  if ! "${install[@]}" > /dev/null 2>&1; then
    if ! { "${as_root[@]}" apt-get update --quiet && "${install[@]}"; }; then
      echo "apt-get could not install ${missing[*]}; what it said is above."
      return 1
    fi
  fi
}

is_installed() {
  [[ $(dpkg-query --show --showformat '${db:Status-Abbrev}' "$1" 2> /dev/null) == ii* ]]
}
