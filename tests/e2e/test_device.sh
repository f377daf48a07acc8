#!/usr/bin/env bash
# Devices by name: without a GPU cuda is refused in one line, and a run that names none tells why it goes without.
. "$(dirname "$0")/common.sh"
make_text corpus.txt
train=("$helix" train "${small[@]}" --data.path corpus.txt --train.steps 1)
printf 'no library\n' >broken.so
absent=HELIX_CUDA_PLUGIN=$folder/absent.so
broken=HELIX_CUDA_PLUGIN=$folder/broken.so

if [ -e /dev/nvidiactl ] || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; then
    echo 'skipped: the checks of a machine without a GPU driver'
else
    expect 9 'device cuda' env CUDA_VISIBLE_DEVICES= "${train[@]}" --out a --device=cuda
    [ ! -e a ] || fail 'a run that was refused left its folder'
    expect 0 'on cpu' "${train[@]}" --out b
fi
expect 9 'device cuda' env "$absent" "${train[@]}" --out c --device=cuda
expect 9 'broken.so' env "$broken" "${train[@]}" --out c --device=cuda
expect 0 'absent.so' env "$absent" "${train[@]}" --out d
expect 0 'going on without a GPU' env "$broken" "${train[@]}" --out e
[ "$(env "$broken" "${train[@]}" --out f 2>&1 | grep -c '^helix: ')" -eq 1 ] || fail 'the reason is not told once'
expect 0 '--device=cpu goes without' env "$broken" "$helix" doctor
expect 9 'expected one of' "${train[@]}" --out g --device=gpu
# what is named is not tried around: cpu opens no plug-in
[ -z "$(env "$broken" "${train[@]}" --out h --device=cpu 2>&1 >/dev/null | grep '^helix: ')" ] || fail 'device cpu looked for the plug-in'
finish
