#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
#   SITE=DIRECTORY [DEVSTACK_DIR=CHECKOUT] [NAME=VALUE...] drive.sh WORD...
#
# Does what stack.sh, unstack.sh and clean.sh do with a plugin, in a site of its own:
#
#   begin       make what DevStack has made of configuration files when plugins configure theirs
#   stack:PHASE, unstack, clean     run a phase of the plugin, and what DevStack does before or after it
#
# Variables of the environment are what a person has in the localrc section of local.conf.
# shellcheck disable=SC2034  # most of what is set here is for the libraries
set -o errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export DEST=$SITE/stack DATA_DIR=$SITE/data TOP_DIR=$SITE/devstack SYSTEMD_DIR=$SITE/systemd
export SYSTEMCTL=$here/bin/systemctl PATH=$here/bin:$PATH
STACK_USER=$(id -un)
ENABLED_SERVICES=${ENABLED_SERVICES:-c-api,c-vol,c-bak,g-api,n-api,n-cpu,tempest}
VIRT_DRIVER=${VIRT_DRIVER:-libvirt}
SERVICE_TIMEOUT=60
CINDER_CONF=$SITE/etc/cinder/cinder.conf
GLANCE_API_CONF=$SITE/etc/glance/glance-api.conf
NOVA_CONF=$SITE/etc/nova/nova.conf
NOVA_CPU_CONF=$SITE/etc/nova/nova-cpu.conf
TEMPEST_CONFIG=$SITE/etc/tempest/tempest.conf
FISK_CONF_DIR=$SITE/etc/fisk
FISK_NBD_LISTEN=127.0.0.1:0
mkdir -p "$DEST" "$DATA_DIR" "$TOP_DIR" "$SYSTEMD_DIR" "$SITE"/etc/{cinder,glance,nova,tempest}
ln -sfn "$(cd "$here/../.." && pwd)" "$DEST/fisk"

# shellcheck source=/dev/null
if [[ -n $DEVSTACK_DIR ]]; then
    source "$here/library.sh"
else
    source "$here/contract.sh"
fi

function pip_install {
    echo "pip install $*" >>"$SITE/pip.log"
}

function install_package {
    echo "install $*" >>"$SITE/packages.log"
}

function stop_service {
    echo "stop $*" >>"$SITE/packages.log"
}

function begin {
    printf '[DEFAULT]\ndebug = True\n' | tee "$GLANCE_API_CONF" "$NOVA_CONF" "$TEMPEST_CONFIG" >/dev/null
    iniset "$NOVA_CONF" DEFAULT compute_driver libvirt.LibvirtDriver
    if [[ -n $STORES ]]; then
        iniset "$GLANCE_API_CONF" DEFAULT enabled_backends "$STORES"
        iniset "$GLANCE_API_CONF" glance_store default_backend "${STORES%%:*}"
    fi
}

function word {
    case $1 in
        begin)
            begin
            ;;
        stack:install)
            configure_cinder
            run_phase stack install
            ;;
        stack:*)
            run_phase stack "${1#stack:}"
            ;;
        unstack)
            run_phase unstack
            cleanup_cinder || true
            ;;
        clean)
            run_phase clean
            ;;
    esac
}

enable_plugin fisk file:///fisk
run_phase override_defaults
source_libraries
run_phase source
for each; do
    word "$each"
done
echo "enabled: $ENABLED_SERVICES; image cache: $CINDER_IMG_CACHE_ENABLED"
