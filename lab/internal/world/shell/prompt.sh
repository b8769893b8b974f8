# What holds at every prompt in a world, in any shell: its programs come first, and one sees where one is.
if [ "${LAB_SHELL:-}" != "$$" ]; then # once a shell
    LAB_SHELL=$$
    . "$LAB_WORLD/shell/environment.sh"
    for lab_tool in pulumi talosctl kubectl govc helm argocd lab make python python3 pip; do
        unalias "$lab_tool" 2> /dev/null || :
        unset -f "$lab_tool" 2> /dev/null || :
    done
    unset lab_tool
fi
case $PATH in
    "$LAB_PATH":*) ;;
    *) export PATH="$LAB_PATH:$PATH" ;;
esac
case ${PS1:-} in
    "$LAB_MARK"*) ;;
    *) PS1="$LAB_MARK${PS1:-$ }" ;;
esac
