# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034  # variables of DevStack's
#
# DevStack's own function library, from the checkout $DEVSTACK_DIR.  What would reach beyond this directory, or asks
# Keystone, is replaced; everything the plugin calls is the real thing.

mkdir -p "$TOP_DIR"
for _each in functions functions-common inc lib stackrc openrc; do
    ln -sfn "$DEVSTACK_DIR/$_each" "$TOP_DIR/$_each"
done
# What GetOSVersion would find out with lsb_release.
os_VENDOR=Debian os_RELEASE=12 os_CODENAME=bookworm os_PACKAGE=deb DISTRO=bookworm
declare -A PROJECT_VENV
# shellcheck source=/dev/null
source "$TOP_DIR/functions"

function echo_summary {
    echo "$@"
}

function get_python_exec_prefix {
    echo /usr/local/bin
}

function source_libraries {
    local configuration=(CINDER_CONF GLANCE_API_CONF NOVA_CONF NOVA_CPU_CONF) name
    local -A wanted

    for name in "${configuration[@]}"; do
        wanted[$name]=${!name}
    done
    SERVICE_LISTEN_ADDRESS=127.0.0.1
    # shellcheck source=/dev/null
    for name in glance nova cinder; do
        source "$TOP_DIR/lib/$name"
    done
    # It has a directory of its own, always in /etc.
    for name in "${configuration[@]}"; do
        printf -v "$name" %s "${wanted[$name]}"
    done
    CINDER_CONF_DIR=$(dirname "$CINDER_CONF")
    CINDER_API_PASTE_INI=$CINDER_CONF_DIR/api-paste.ini
    CINDER_UWSGI_CONF=$CINDER_CONF_DIR/uwsgi.ini
    CINDER_DIR=$DEST/cinder
    mkdir -p "$CINDER_DIR/etc/cinder"
    touch "$CINDER_DIR/etc/cinder/api-paste.ini"

    for name in configure_rootwrap configure_keystone_authtoken_middleware configure_keystoneauth \
        iniset_rpc_backend setup_logging write_uwsgi_config remove_uwsgi_config database_connection_url cinder-rtstool; do
        eval "function $name { :; }"
    done
}
